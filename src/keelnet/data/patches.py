"""Patches: cut from prepared volumes, balanced between tumour and brain, and varied."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from keelnet.data.conventions import CAVITY
from keelnet.data.prepared import Volume
from keelnet.data.resampling import Space
from keelnet.data.samples import WHOLE, Batch, Share

MOST_WORKERS = 64


def variation() -> Any:
    """MONAI's transforms of one patch {x, classes, brain}: mirrors, scale, shift, gamma, noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations on import, none about numbers
        from monai import transforms

    monai: Any = transforms  # it names its exports in a way that type checkers do not see
    mirrors = [
        monai.RandFlipd(["x", "classes", "brain"], prob=0.5, spatial_axis=axis) for axis in range(3)
    ]
    return monai.Compose(
        [
            *mirrors,
            monai.RandScaleIntensityd("x", factors=0.15, prob=0.8, channel_wise=True),
            monai.RandShiftIntensityd("x", offsets=0.15, prob=0.8),
            monai.RandAdjustContrastd("x", gamma=(0.8, 1.25), prob=0.2, retain_stats=True),
            monai.RandGaussianNoised("x", std=0.1, prob=0.2),
        ]
    )


def require_workers(count: int) -> None:
    """Raise ValueError for a number of processes that patches cannot be cut by."""
    if not 0 <= count <= MOST_WORKERS:
        raise ValueError(f"workers must lie between 0 and {MOST_WORKERS}, got {count}")


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches (batch, 4, *patch), channels last in memory, with classes (batch, *patch) from prepared volumes.

    A share ``lesion`` of the patches is centred on a voxel of tumour, its class drawn evenly among those
    that the case has; the others anywhere in the brain. An epoch is ``count`` patches. Volumes smaller than the patch are
    padded with zeros. ``varied`` False leaves patches as they are. ``workers`` processes cut them beside the
    caller, who does it where there are none: the patches are the same.
    """

    volumes: Sequence[Volume]
    patch: Space
    count: int
    lesion: float = 0.67
    varied: bool = True
    workers: int = 0
    _transform: list[Any] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.volumes:
            raise ValueError("patches need at least one prepared volume with labels")
        require_workers(self.workers)
        if min(self.patch) < 1 or self.count < 1:
            raise ValueError(
                f"patch sides and count must be at least 1, got {self.patch} and {self.count}"
            )

    def batches(
        self, batch_size: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Iterator[Batch]:
        """One epoch, see `Source.batches`."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        # One number is drawn now: what a worker does with it cannot disturb the generator.
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return self._epoch(batch_size, seed, share)

    def _epoch(self, batch_size: int, seed: int, share: Share) -> Iterator[Batch]:
        numbers = [
            [begin + place for place in share.of(min(batch_size, self.count - begin))]
            for begin in range(0, self.count, batch_size)
        ]
        if not self.workers:
            yield from (_stacked([self._drawn(seed, n) for n in batch]) for batch in numbers)
            return
        loader = DataLoader(
            _Numbered(self, seed),
            batch_sampler=numbers,
            num_workers=self.workers,
            collate_fn=_stacked,
            # Its own generator: the loader must not touch torch's.
            generator=torch.Generator(),
            worker_init_fn=_alone,
        )
        yield from loader

    def _drawn(self, seed: int, number: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([seed, number])
        volume = self.volumes[int(random.integers(len(self.volumes)))]
        x, classes = self._cut(volume, self._centre(volume, random))
        if not self.varied:
            return torch.from_numpy(x), torch.from_numpy(classes.astype(np.int64))
        transform = self._variation()
        transform.set_random_state(int(random.integers(2**31)))
        brain = (x != 0).any(0, keepdims=True)
        given = transform({"x": x, "classes": classes[None], "brain": brain})
        # Outside the brain it stays 0, as it is where a trained network is used.
        x = np.asarray(given["x"], np.float32) * np.asarray(given["brain"], np.float32)
        return torch.from_numpy(x), torch.from_numpy(np.asarray(given["classes"][0], np.int64))

    def _variation(self) -> Any:
        if not self._transform:
            self._transform.append(variation())
        return self._transform[0]

    def _centre(self, volume: Volume, random: np.random.Generator) -> NDArray[np.int64]:
        places = volume.places[volume.places[:, 3] != CAVITY]  # where a tumour was
        if random.random() < self.lesion and len(places):
            kinds = np.unique(places[:, 3])
            chosen = places[places[:, 3] == random.choice(kinds)]
            place: NDArray[np.int64] = chosen[random.integers(len(chosen)), :3].astype(np.int64)
            return place
        return np.array([random.integers(side) for side in volume.space])

    def _cut(
        self, volume: Volume, centre: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The patch around a place, moved inside the volume as far as it goes."""
        x = np.zeros((len(volume.x), *self.patch), np.float32)
        classes = np.zeros(self.patch, np.uint8)
        source, target = [], []
        for place, side, wide in zip(centre.tolist(), volume.space, self.patch, strict=True):
            start = min(max(0, place - wide // 2), max(0, side - wide))
            stop = min(side, start + wide)
            source.append(slice(start, stop))
            target.append(
                slice((wide - (stop - start)) // 2, (wide - (stop - start)) // 2 + stop - start)
            )
        x[(slice(None), *target)] = volume.x[(slice(None), *source)]
        classes[tuple(target)] = volume.classes[tuple(source)]
        volume.let_go()  # else memory would grow with the number of cases
        return x, classes


@dataclass(frozen=True)
class _Numbered(Dataset[tuple[Tensor, Tensor]]):
    """An epoch, patch by patch, for processes that share its numbers."""

    patches: Patches
    seed: int

    def __len__(self) -> int:
        return self.patches.count

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if number >= len(self):
            raise IndexError(number)
        return self.patches._drawn(self.seed, number)


def _stacked(drawn: list[tuple[Tensor, Tensor]]) -> Batch:
    x, classes = zip(*drawn, strict=True)
    return torch.stack([each.movedim(0, -1) for each in x]).movedim(-1, 1), torch.stack(classes)


def _alone(worker: int) -> None:
    """A worker computes on one thread: the others are for training."""
    torch.set_num_threads(1)
