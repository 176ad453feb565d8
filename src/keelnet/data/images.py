"""Images: small labelled pictures, for classification in seconds."""

from __future__ import annotations

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
