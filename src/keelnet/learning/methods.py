"""Methods: those that a descent can take, which ask for gradients alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from keelnet.dynamics.kernels import require_count


class Method(ABC):
    """A method of gradients; ``rate`` is its largest step.

    searches: whether a step evaluates the objective more than once, along a line, so that neither
    clipping nor projection may come between; where a trial has no finite objective it is given inf, with a gradient
    of NaN, and must refuse that step. remedy: what to change where the objective becomes non-finite all the same.
    """

    rate: float
    searches: ClassVar[bool] = False
    remedy: ClassVar[str] = "a smaller rate (--set rate=…)"

    @abstractmethod
    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over these parameters."""


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is a finite number above 0."""
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def require_share(name: str, value: float, below: float) -> None:
    """Raise ValueError unless the value is at least 0 and below a number."""
    if not isinstance(value, (int, float)) or not 0 <= value < below:
        raise ValueError(f"{name} must be at least 0 and below {below:g}, got {value!r}")


@dataclass(frozen=True)
class Adam(Method):
    """Adam with decoupled weight decay (AdamW; plain Adam at decay 0).

    Raises ValueError for a rate that is not above 0 and a decay below 0.
    """

    rate: float = 1e-2
    decay: float = 0.0

    def __post_init__(self) -> None:
        require_positive("rate", self.rate)
        require_share("decay", self.decay, math.inf)

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.rate, weight_decay=self.decay)


@dataclass(frozen=True)
class SGD(Method):
    """Stochastic gradient descent with Nesterov momentum.

    Raises ValueError for a rate that is not above 0, a momentum outside [0, 1) and a decay below 0.
    """

    rate: float = 1e-1
    momentum: float = 0.9
    decay: float = 0.0

    def __post_init__(self) -> None:
        require_positive("rate", self.rate)
        require_share("momentum", self.momentum, 1)
        require_share("decay", self.decay, math.inf)

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters,
            lr=self.rate,
            momentum=self.momentum,
            weight_decay=self.decay,
            nesterov=self.momentum > 0,
        )


@dataclass(frozen=True)
class LBFGS(Method):
    """L-BFGS with a strong-Wolfe line search (torch's): ``iterations`` of it on every batch.

    Meant for one batch that holds all samples, with schedule=Constant() and no warm-up. history: how
    many differences of gradients it remembers. Raises ValueError for a rate that is not above 0 and numbers below 1.
    """

    rate: float = 1.0
    iterations: int = 20
    history: int = 10
    searches: ClassVar[bool] = True
    remedy: ClassVar[str] = "a smaller gain (--set gain=…), more layers, method=adam"

    def __post_init__(self) -> None:
        require_positive("rate", self.rate)
        require_count("iterations", self.iterations)
        require_count("history", self.history)

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(
            parameters,
            lr=self.rate,
            max_iter=self.iterations,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            history_size=self.history,
            line_search_fn="strong_wolfe",
        )
