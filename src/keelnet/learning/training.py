"""Training: how to descend, everything besides network, data and objective."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from keelnet.learning.methods import Method, require_positive, require_share
from keelnet.learning.schedules import Cosine, Schedule
from keelnet.propagation.engines.conv import Precision


@dataclass(frozen=True)
class Budget:
    """When to stop: after ``epochs``, or ``seconds`` of the clock, whichever comes first.

    Raises ValueError for neither, epochs below 1 and seconds that are not above 0.
    """

    epochs: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is None and self.seconds is None:
            raise ValueError("a budget needs epochs or seconds")
        if self.epochs is not None and (not isinstance(self.epochs, int) or self.epochs < 1):
            raise ValueError(f"epochs must be an integer of at least 1, got {self.epochs!r}")
        if self.seconds is not None:
            require_positive("seconds", self.seconds)

    def spent(self, epochs: float, seconds: float) -> float:
        """The share of the budget that is gone, 0 … 1."""
        by_epochs = epochs / self.epochs if self.epochs else 0.0
        by_seconds = seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_epochs, by_seconds))


@dataclass(frozen=True)
class Training:
    """How to train: everything that ``descend`` needs besides network, data and objective.

    warmup: share of the budget over which the rate rises from 0; after it ``schedule`` decides. clip:
    largest norm of the gradient (None: no limit). bound: c > 0 projects the controls onto |θ| ≤ c after
    each step (None: no bound): of a dense kernel of n × n then ‖K‖ ≤ n c, so that Verlet holds for h n c ≤ 2
    (Ruthotto & Haber 2020). goal: the score to keep the best iterate of; larger is better. device: where batches are moved. average: decay a step of an
    exponential average of the weights, which is then what is validated and kept (None: the weights
    themselves). products: "bfloat16" rounds the inputs of convolutions, the state stays as it is. Raises
    ValueError for a warmup or average outside [0, 1), a clip or bound that is not above 0, and these two beside a
    method that searches.
    """

    method: Method
    budget: Budget
    batch_size: int
    goal: str
    warmup: float = 0.1
    clip: float | None = 1.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    average: float | None = None
    products: Precision = "state"
    schedule: Schedule = field(default_factory=Cosine)
    bound: float | None = None

    def __post_init__(self) -> None:
        require_share("warmup", self.warmup, 1)
        if self.average is not None:
            require_share("average", self.average, 1)
        if self.clip is not None:
            require_positive("clip", self.clip)
        if self.bound is not None:
            require_positive("bound", self.bound)
        if self.method.searches and not (self.clip is None and self.bound is None):
            raise ValueError(
                f"{type(self.method).__name__} searches along a line, where clipping and projection do not"
                f" fit; use clip=None and bound=None, got clip={self.clip!r}, bound={self.bound!r}"
            )

    def rate_factor(self, spent: float) -> float:
        """What the rate is multiplied by after this share of the budget."""
        if spent < self.warmup:
            return max(spent / self.warmup, 1e-3)
        return self.schedule.factor(spent, self.warmup)
