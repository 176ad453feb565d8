"""Tissue slices: axial T1 slices of a real brain, to be labelled background, CSF, GM or WM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from keelnet.data.brain import BrainMaps, load_icbm152
from keelnet.data.distortion import Distortion, biased, noisy
from keelnet.data.samples import WHOLE, Augmentation, Batch, InMemory, Share

# Networks that halve the resolution three times need sides divisible by it.
SIDES = 8


@dataclass(frozen=True)
class SlabSplit:
    """Slice numbers, ascending; between training and validation lies a margin that nobody uses."""

    training: tuple[int, ...]
    margin: tuple[int, ...]
    validation: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TissueSlices:
    """Slices x (batch, 1, H, W), labels (batch, H, W); H runs to the right, W to the front.

    x is 0 outside the brain and about 1 in white matter: each slice is divided by its own bright
    level (see `normalised`), which needs no knowledge of the labels or of other slices.
    """

    samples: InMemory
    split: SlabSplit

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.samples.class_names

    @property
    def count(self) -> int:
        return self.samples.count

    @property
    def classes(self) -> int:
        return self.samples.classes

    @property
    def channels(self) -> int:
        return self.samples.channels

    @property
    def validation(self) -> Batch:
        """The withheld slices, clean."""
        return self.samples.validation

    def validation_corrupted(self, seed: int, noise: float = 0.05, bias: float = 0.2) -> Batch:
        """The withheld slices in a poor scanner: Rician noise and shading at full strength.

        The same for the same ``seed``; labels are those of ``validation``. ``noise`` and ``bias``
        as in `Distortion`, which also refuses the same values.
        """
        strengths = Distortion(noise=noise, bias=bias)
        generator = torch.Generator().manual_seed(seed)
        x, labels = self.validation
        shaded = biased(x, torch.tensor(strengths.bias), generator)
        return normalised(noisy(shaded, torch.tensor(strengths.noise), generator)), labels

    def batches(
        self, batch_size: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Iterator[Batch]:
        """One epoch of augmented training slices, see `Source.batches`."""
        batches = self.samples.batches(batch_size, generator, share)
        return ((normalised(x), labels) for x, labels in batches)


def tissue_slices(
    maps: BrainMaps | None = None,
    *,
    slab: int = 5,
    margin: int = 1,
    validation_fraction: float = 0.2,
    smallest_brain: float = 0.05,
    augmentation: Augmentation | None = None,
) -> TissueSlices:
    """Axial slices of ``maps`` (default: the ICBM152 average), split by slabs.

    About ``validation_fraction`` of the slices are withheld, in slabs of ``slab`` neighbours spread
    over the brain; ``margin`` slices on either side of a slab are dropped. Slices whose brain fills
    less than ``smallest_brain`` of the area are left out. ``augmentation`` acts on training batches
    (default: `Distortion()`; `unchanged` for none).

    Raises ValueError for a fraction outside (0, 1), a slab or margin below 1, and a split that
    leaves nothing to train on.
    """
    maps = load_icbm152() if maps is None else maps
    split = slab_split(_usable(maps, smallest_brain), slab, margin, validation_fraction)
    samples = InMemory(
        training=_slices(maps, split.training),
        validation=_slices(maps, split.validation),
        class_names=maps.class_names,
        augmentation=Distortion() if augmentation is None else augmentation,
    )
    return TissueSlices(samples, split)


def slab_split(
    slices: Sequence[int], slab: int, margin: int, validation_fraction: float
) -> SlabSplit:
    """Withhold evenly spread slabs of ``slices`` (ascending slice numbers)."""
    _check_split(slab, margin, validation_fraction)
    slabs = max(1, round(validation_fraction * len(slices) / slab))
    starts = [round((i + 0.5) * len(slices) / slabs - slab / 2) for i in range(slabs)]
    validation = {slices[max(0, start) : start + slab] for start in starts}
    withheld = {number for part in validation for number in part}
    near = {number + step for number in withheld for step in range(-margin, margin + 1)}
    training = tuple(number for number in slices if number not in near)
    if not training or not withheld:
        raise ValueError(
            f"{len(slices)} slices leave none to train on with slab={slab}, margin={margin}, "
            f"validation_fraction={validation_fraction}; make one of these smaller"
        )
    dropped = tuple(n for n in slices if n in near and n not in withheld)
    return SlabSplit(training, dropped, tuple(sorted(withheld)))


def normalised(x: Tensor, share: float = 0.05) -> Tensor:
    """Each image over its bright level: what a ``share`` of its non-zero pixels exceed.

    White matter sits near 1 wherever a slice holds any. x: (batch, channels, H, W).
    """
    descending = x.flatten(1).sort(dim=1, descending=True).values
    rank = (share * (descending > 0).sum(1, keepdim=True)).long()
    bright = descending.gather(1, rank).clamp(min=1e-6)
    return x / bright[:, :, None, None]


def _check_split(slab: int, margin: int, validation_fraction: float) -> None:
    if slab < 1:
        raise ValueError(f"slab must be at least 1 slice, got {slab}; 5 is usual")
    if margin < 1:
        raise ValueError(
            f"margin must be at least 1 slice, got {margin}: neighbouring slices look alike, "
            "and validation would be training again"
        )
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie between 0 and 1, got {validation_fraction}; try 0.2"
        )


def _usable(maps: BrainMaps, smallest_brain: float) -> tuple[int, ...]:
    if not 0 < smallest_brain < 1:
        raise ValueError(f"smallest_brain must lie between 0 and 1, got {smallest_brain}; try 0.05")
    share = maps.mask.mean(axis=(0, 1))
    usable = tuple(int(number) for number in np.flatnonzero(share >= smallest_brain))
    if not usable:
        raise ValueError(
            f"no slice is {smallest_brain:.0%} brain, the fullest is {share.max():.0%}; "
            "lower smallest_brain"
        )
    return usable


def _slices(maps: BrainMaps, numbers: tuple[int, ...]) -> Batch:
    x = normalised(_stacked(maps.t1, numbers)[:, None].float())
    return x, _stacked(maps.labels, numbers).long()


def _stacked(volume: NDArray[np.float32] | NDArray[np.uint8], numbers: tuple[int, ...]) -> Tensor:
    """Axial slices (slices, H, W), padded with background all round to multiples of `SIDES`."""
    stack = torch.from_numpy(np.moveaxis(volume, 2, 0)[list(numbers)])
    gaps = [-side % SIDES for side in (stack.shape[2], stack.shape[1])]
    return functional.pad(stack, [part for gap in gaps for part in (gap // 2, gap - gap // 2)])
