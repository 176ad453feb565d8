"""Schedules: what a rate is multiplied by as the budget is spent."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise


class Schedule(ABC):
    """A factor of the rate, 0 … 1, after the warm-up."""

    @abstractmethod
    def factor(self, spent: float, begin: float = 0.0) -> float:
        """At this share of the budget, where the warm-up ended at ``begin``."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """Falls from 1 to 0 along half a cosine."""

    def factor(self, spent: float, begin: float = 0.0) -> float:
        return 0.5 * (1 + math.cos(math.pi * (spent - begin) / (1 - begin)))


@dataclass(frozen=True)
class Constant(Schedule):
    """Stays at 1."""

    def factor(self, spent: float, begin: float = 0.0) -> float:
        return 1.0


@dataclass(frozen=True)
class Steps(Schedule):
    """Is multiplied by ``drop`` at each of the shares ``at`` of the budget.

    Raises ValueError for shares that do not rise between 0 and 1, and a drop that does not lie there.
    """

    at: tuple[float, ...] = (0.5, 0.75)
    drop: float = 0.1

    def __post_init__(self) -> None:
        if not self.at or not all(a < b for a, b in pairwise((0, *self.at, 1))):
            raise ValueError(f"at must hold rising shares between 0 and 1, got {self.at!r}")
        if not 0 < self.drop < 1:
            raise ValueError(f"drop must lie between 0 and 1, got {self.drop!r}")

    def factor(self, spent: float, begin: float = 0.0) -> float:
        return self.drop ** sum(spent >= share for share in self.at)


@dataclass(frozen=True)
class Part(Schedule):
    """From share ``begin`` to ``end`` of a longer budget: what a level of several has of one schedule.

    warmup: where the warm-up of the longer budget ended. Raises ValueError unless 0 ≤ begin < end ≤ 1.
    """

    whole: Schedule
    begin: float
    end: float
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"a part must begin before it ends, between 0 and 1, got {self.begin!r} to {self.end!r}"
            )

    def factor(self, spent: float, begin: float = 0.0) -> float:
        return self.whole.factor(self.begin + (self.end - self.begin) * spent, self.warmup)
