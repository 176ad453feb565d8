"""Methods: the first-order ones that a descent can take."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn


class Method(ABC):
    """A first-order method; ``rate`` is its largest step."""

    rate: float

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
    """Adam with decoupled weight decay (AdamW; plain Adam at decay 0)."""

    rate: float = 1e-2
    decay: float = 0.0

    def __post_init__(self) -> None:
        require_positive("rate", self.rate)
        require_share("decay", self.decay, math.inf)

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.rate, weight_decay=self.decay)


@dataclass(frozen=True)
class SGD(Method):
    """Stochastic gradient descent with Nesterov momentum."""

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
