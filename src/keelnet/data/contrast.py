"""Contrast: what an MR scanner makes of tissue, tumour and look-alikes, in four modalities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from keelnet.data.brain import BrainMaps
from keelnet.data.conventions import EDEMA, ENHANCING, MODALITIES, NECROSIS
from keelnet.data.subjects import smooth_noise
from keelnet.data.tumours import Lesions

Field = NDArray[np.float32]

# Signal relative to white matter: spin-echo equations, grey matter adjusted to the atlas' contrast.
SIGNALS: dict[str, dict[str, float]] = {
    "t1": {"csf": 0.43, "gm": 0.74, "wm": 1.0, "edema": 0.82, "enhancing": 0.86, "necrosis": 0.66},
    "t1ce": {"csf": 0.42, "gm": 0.75, "wm": 1.0, "edema": 0.86, "enhancing": 1.59, "necrosis": 0.71},
    "t2": {"csf": 3.3, "gm": 1.6, "wm": 1.0, "edema": 2.3, "enhancing": 2.0, "necrosis": 3.0},
    "flair": {"csf": 0.05, "gm": 1.2, "wm": 1.0, "edema": 1.8, "enhancing": 1.6, "necrosis": 1.05},
}  # fmt: skip
TISSUES = ("csf", "gm", "wm", "edema", "enhancing", "necrosis")
FULL_SCALE = 1000.0  # what white matter is written as, about


@dataclass(frozen=True)
class Contrast:
    """How much scans differ: largest strengths, as fractions; each scan draws its own.

    jitter: of each class' signal; bias: of a smooth factor; noise: least and most deviation of Rician
    noise; gamma: of the exponent; texture: deviation of a smooth factor inside lesions, cut off at twice that; alike:
    how far the signal of a look-alike may be from the tumour's; blur: deviation of the partial volume in mm.
    """

    jitter: float = 0.08
    bias: tuple[float, float] = (0.08, 0.2)
    noise: tuple[float, float] = (0.02, 0.04)
    gamma: float = 0.15
    texture: float = 0.08
    alike: float = 0.03
    blur: float = 1.0

    def drawn(self, head: BrainMaps, lesions: Lesions, random: np.random.Generator) -> Field:
        """The four modalities (4, right, anterior, superior), exactly 0 outside the brain."""
        shares = self._shares(head, lesions, random)
        shape = head.mask.shape
        alike = 1 + self.alike * np.clip(smooth_noise(shape, 30 / head.voxel_size, random), -1, 1)
        texture = smooth_noise(shape, 5 / head.voxel_size, random)
        lesion = (lesions.classes > 0) | (lesions.mimics > 0)
        detail = np.where(lesion, 1 + self.texture * np.clip(texture, -2, 2), 1)
        detail *= np.where(lesions.mimics > 0, alike, 1)
        volumes = [self._modality(name, head, shares, detail, random) for name in MODALITIES]
        return np.stack(volumes).astype(np.float32)

    def _shares(self, head: BrainMaps, lesions: Lesions, random: np.random.Generator) -> Field:
        """Shares of the six tissues a voxel, blurred as a scanner blurs them."""
        shares = np.stack([head.csf, head.gm, head.wm, *[np.zeros_like(head.csf)] * 3])
        both = np.where(lesions.classes > 0, lesions.classes, lesions.mimics)
        swollen = 0.75 + 0.2 * np.tanh(smooth_noise(both.shape, 12 / head.voxel_size, random))
        for place, label in ((3, EDEMA), (4, ENHANCING), (5, NECROSIS)):
            inside = both == label
            amount = swollen[inside] if label == EDEMA else np.float32(0.95)
            shares[:, inside] *= 1 - amount
            shares[place][inside] += amount
        if self.blur:
            for share in shares:
                ndimage.gaussian_filter(share, self.blur / head.voxel_size, output=share)
        total = np.maximum(shares.sum(0), 1e-6)
        blurred: Field = shares / total
        return blurred

    def _modality(
        self, name: str, head: BrainMaps, shares: Field, detail: Field, random: np.random.Generator
    ) -> Field:
        means = [SIGNALS[name][tissue] for tissue in TISSUES]
        if name == "flair":
            means[5] = random.uniform(0.6, 1.5)
        drawn = [mean * (1 + random.uniform(-self.jitter, self.jitter)) for mean in means]
        signal = np.tensordot(np.asarray(drawn, np.float32), shares, 1) * detail
        top = max(drawn)
        signal = top * (np.maximum(signal, 0) / top) ** np.exp(
            random.uniform(-self.gamma, self.gamma)
        )
        bias = smooth_noise(signal.shape, 80 / head.voxel_size, random)
        signal *= 1 + random.uniform(*self.bias) * np.clip(bias / 2, -1, 1)
        deviation = random.uniform(*self.noise)
        noise = deviation * random.standard_normal((2, *signal.shape), np.float32)
        signal = np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2)
        scale = FULL_SCALE * random.uniform(0.3, 1.5)
        return np.where(head.mask, np.maximum(signal * scale, 1), 0).astype(np.float32)
