"""Samples: what a training loop asks of a data set, and the one that holds its arrays in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

Batch = tuple[Tensor, Tensor]
Augmentation = Callable[[Tensor, Tensor, torch.Generator], Batch]


@dataclass(frozen=True)
class Share:
    """What process ``rank`` of ``size`` takes of a batch: every size-th sample, the whole if it is alone."""

    rank: int = 0
    size: int = 1

    def of(self, count: int) -> range:
        """Its places in a batch of ``count``; at least one, which another process may have too."""
        return range(self.rank % count, count, self.size)

    def weight(self, count: int) -> float:
        """Of the mean over its places, so that the mean over processes is the mean over the batch.

        0 where its one place is another's: batches may be smaller than there are processes.
        """
        return len(self.of(count)) * self.size / count if self.rank < count else 0.0


WHOLE = Share()


class Source(Protocol):
    """Where a descent takes its batches from."""

    @property
    def count(self) -> int:
        """How many samples an epoch has."""

    def batches(
        self, batch_size: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Iterator[Batch]:
        """One epoch of training samples in random order; the last batch may be smaller.

        Of each batch of ``batch_size`` only the ``share`` is given. All randomness comes from ``generator``, and the
        batches are the same however they are shared. Raises ValueError for a batch_size that cannot be had.
        """


class Samples(Source, Protocol):
    """Inputs x (batch, channels, *space), float32; int64 labels (batch,) or (batch, *space)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ..."""

    @property
    def classes(self) -> int:
        """How many labels there are."""

    @property
    def channels(self) -> int:
        """Channels of x."""

    @property
    def validation(self) -> Batch:
        """The withheld samples (x, labels), always the same and never augmented."""


def unchanged(x: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    """The augmentation that does nothing."""
    return x, labels


@dataclass(frozen=True, eq=False)
class InMemory:
    """Samples whose arrays fit in memory; ``augmentation`` acts on every training batch.

    ``training`` and ``validation`` are pairs (x, labels), see `Samples`; so is ``test``, if there
    are samples that neither training nor the choice of the best iterate sees. x of training may be
    bytes that the augmentation makes numbers of. Raises ValueError for pairs of different lengths or
    channels, an empty pair, numbers that are not finite, labels that have no name, and training
    labels of one class alone.
    """

    training: Batch
    validation: Batch
    class_names: tuple[str, ...]
    augmentation: Augmentation = unchanged
    test: Batch | None = None

    def __post_init__(self) -> None:
        pairs = {"training": self.training, "validation": self.validation, "test": self.test}
        for name, pair in pairs.items():
            if pair is not None:
                _check_pair(name, pair, self.classes)
                _check_channels(name, pair[0].shape[1], self.channels)
        labels = self.training[1]
        if self.classes > 1 and labels.min() == labels.max():
            raise ValueError(
                f"training labels must be of two classes or more, got {self.class_names[labels.min()]}"
                " alone"
            )

    @property
    def count(self) -> int:
        return len(self.training[0])

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.training[0].shape[1]

    def batches(
        self, batch_size: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Iterator[Batch]:
        """One epoch in random order, see `Source.batches`."""
        x, labels = self.training
        if not 1 <= batch_size <= len(x):
            raise ValueError(
                f"batch_size must lie between 1 and the {len(x)} training samples, "
                f"got {batch_size}; use batch_size={min(max(batch_size, 1), len(x))}"
            )
        order = torch.randperm(len(x), generator=generator)
        whole = (
            self.augmentation(x[i], labels[i], generator) for i in torch.split(order, batch_size)
        )
        if share.size == 1:
            return whole
        return ((x[own], labels[own]) for x, labels in whole for own in [list(share.of(len(x)))])

    def fewer(self, count: int, seed: int) -> InMemory:
        """``count`` of the training samples, drawn by ``seed``, as many of each class as there are.

        Fewer are part of more for one seed. Raises ValueError for a count that cannot be had.
        """
        x, labels = self.training
        if not self.classes <= count <= len(x):
            raise ValueError(
                f"samples must lie between {self.classes} (one a class) and the {len(x)} there are,"
                f" got {count}"
            )
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        marks = functional.one_hot(labels[order], self.classes)
        place = (marks.cumsum(dim=0) * marks).sum(dim=1)  # in its class: 1, 2, …
        chosen = order[place.argsort(stable=True)[:count]].sort().values
        return replace(self, training=(x[chosen], labels[chosen]))


def _check_pair(name: str, pair: Batch, classes: int) -> None:
    x, labels = pair
    if x.dim() < 2 or len(x) == 0 or len(x) != len(labels):
        raise ValueError(
            f"{name} must hold x (samples, channels, *space) and as many labels, at least one, "
            f"got shapes {tuple(x.shape)} and {tuple(labels.shape)}"
        )
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError(f"{name} x must hold finite numbers, got nan or infinity; take them out")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{name} labels must lie in 0..{classes - 1}, got {int(labels.min())}.."
            f"{int(labels.max())}; name every class in class_names"
        )


def _check_channels(name: str, channels: int, wanted: int) -> None:
    if channels != wanted:
        raise ValueError(f"{name} x must have the {wanted} channels of training x, got {channels}")
