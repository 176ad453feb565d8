"""Images: small labelled pictures, for classification in seconds, and how batches of images are varied."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from keelnet.data.samples import Augmentation, Batch, InMemory, unchanged


@dataclass(frozen=True)
class Shift:
    """An augmentation: move each image by up to ``pixels`` along either axis, zeros coming in.

    Labels stay: they must name whole images. Raises ValueError for pixels < 1.
    """

    pixels: int = 1

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise ValueError(
                f"pixels must be at least 1, got {self.pixels}; use unchanged for none"
            )

    def __call__(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """Moved x (batch, channels, H, W), and the labels (batch,) as they came."""
        padded = functional.pad(x, [self.pixels] * 4)
        starts = torch.randint(0, 2 * self.pixels + 1, (2, len(x), 1), generator=generator)
        rows, columns = (
            start + torch.arange(side) for start, side in zip(starts, x.shape[2:], strict=True)
        )
        image = torch.arange(len(x))[:, None, None]
        moved = padded[image, :, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2), labels


@dataclass(frozen=True)
class Mirror:
    """An augmentation: exchange left and right (the last axis) of half of the images, by chance."""

    def __call__(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """x (batch, channels, H, W), and the labels (batch,) as they came."""
        chosen = torch.rand(len(x), generator=generator) < 0.5
        return torch.where(chosen[:, None, None, None], x.flip(-1), x), labels


@dataclass(frozen=True)
class Standardised:
    """Bytes as numbers, (x − mean) / deviation, channel by channel; in channels-last memory.

    As an augmentation it stands before those that fill a border with zeros, which then are its mean.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, x: Tensor) -> Standardised:
        """Mean and standard deviation over the images of x (images, channels, H, W), bytes."""
        shares = [
            torch.bincount(channel.reshape(-1).int(), minlength=256).double() / channel.numel()
            for channel in x.unbind(1)
        ]
        value = torch.arange(256, dtype=torch.float64)
        means = [float(share @ value) for share in shares]
        variances = [
            float(share @ (value - mean) ** 2) for share, mean in zip(shares, means, strict=True)
        ]
        # Images of one grey alone have no deviation: they become 0.
        return cls(tuple(means), tuple(math.sqrt(variance) or 1.0 for variance in variances))

    def of_images(self, x: Tensor) -> Tensor:
        """float32 of the same shape (images, channels, H, W)."""
        mean, deviation = (
            torch.tensor(values)[:, None, None] for values in (self.mean, self.deviation)
        )
        numbers = x.to(torch.float32, memory_format=torch.channels_last)
        return (numbers - mean) / deviation

    def __call__(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        return self.of_images(x), labels


@dataclass(frozen=True)
class InTurn:
    """Augmentations one after the other."""

    parts: tuple[Augmentation, ...]

    def __call__(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        for part in self.parts:
            x, labels = part(x, labels, generator)
        return x, labels


def digits(
    seed: int = 0, validation_fraction: float = 0.2, augmentation: Augmentation = unchanged
) -> InMemory:
    """The 1797 handwritten digits of scikit-learn: x (batch, 1, 8, 8), labels (batch,) 0 to 9.

    x is ink / 16, in [0, 1]: a scale known beforehand, so nothing leaks from the validation set,
    which holds ``validation_fraction`` of every class, chosen by ``seed``. ``augmentation`` acts on
    training batches, for example ``Shift(1)``.

    Raises ValueError for a fraction outside (0, 1), ImportError without scikit-learn.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie between 0 and 1, got {validation_fraction}; try 0.2"
        )
    x, labels = _all_digits()
    withheld = stratified(labels, validation_fraction, seed)
    return InMemory(
        training=(x[~withheld], labels[~withheld]),
        validation=(x[withheld], labels[withheld]),
        class_names=tuple(str(digit) for digit in range(10)),
        augmentation=augmentation,
    )


def stratified(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Mask (samples,) of a random ``fraction`` of every class, at least one and never all."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = torch.nonzero(labels == label)[:, 0]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return chosen


def _all_digits() -> Batch:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("digits needs scikit-learn; pip install scikit-learn") from error
    stored = load_digits()
    x = torch.from_numpy(stored.images.astype(np.float32) / 16)[:, None]
    return x, torch.from_numpy(stored.target.astype(np.int64))
