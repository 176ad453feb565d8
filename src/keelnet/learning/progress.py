"""Progress: what training says after every epoch, and the state that it goes on from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Clock = Callable[[], float]


@dataclass(frozen=True)
class State:
    """Everything that a descent goes on from: ``descend(…, state)`` continues to the last bit.

    network, optimiser: their state dictionaries; kept: the network's at its best score ``best``;
    averaged: the average of its parameters, if there is one; generator: its state. The tensors are the descent's own
    and change with its next epoch; they stay as they are where the descent ends or is closed.
    """

    epoch: int
    seconds: float
    best: float
    network: dict[str, Tensor]
    kept: dict[str, Tensor]
    averaged: dict[str, Tensor]
    optimiser: dict[str, Any]
    generator: Tensor


@dataclass(frozen=True)
class Progress:
    """The state of training after an epoch.

    terms: mean of each term of the objective over the epoch. scores: of the validation set.
    best: whether this is the best iterate so far. spent: share of the budget. seconds: since the
    start. state: what to go on from. details: numbers of the solver, by name.
    """

    epoch: int
    spent: float
    seconds: float
    rate: float
    terms: dict[str, float]
    scores: dict[str, float]
    best: bool
    state: State = field(repr=False, compare=False)
    details: dict[str, float] = field(default_factory=dict)


def put_back(network: nn.Module, kept: dict[str, Tensor], last: State | None) -> None:
    """The best iterate into the network, but not into the state of the last epoch, which shares its tensors."""
    if last is not None:
        last.network.update(copied(last.network))
    network.load_state_dict(kept)


def warn_of_no_best(best: float, goal: str) -> None:
    """Where no epoch was better than none, nothing of the training is left."""
    if best == -math.inf:
        warnings.warn(
            f"no epoch gave a number for {goal!r}: the network is what it was before training",
            RuntimeWarning,
            stacklevel=3,
        )


def copied(values: dict[str, Tensor], device: torch.device | None = None) -> dict[str, Tensor]:
    """The values of a state dictionary, apart from the network's own."""
    return {name: value.detach().to(device=device, copy=True) for name, value in values.items()}
