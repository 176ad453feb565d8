"""The objective: a loss and regularisers, term by term, never only their sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from keelnet.dynamics.controls import Control
from keelnet.networks.network import blocks_of

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """loss(logits, labels) + α · ½/h Σ ‖θ_{j+1} − θ_j‖² + β · ½ h Σ ‖θ_j‖².

    The sums run over the knots of every block's control, h = T / knots, so that both values
    converge when knots are refined (with h in the place of 1/h the first would depend on the mesh).
    smoothness α ≥ 0, tikhonov β ≥ 0; ``loss`` is cross-entropy over images or pixels.
    """

    loss: Loss = functional.cross_entropy
    smoothness: float = 0.0
    tikhonov: float = 0.0

    def __post_init__(self) -> None:
        for name in ("smoothness", "tikhonov"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")

    def terms(self, network: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every term that has weight, by name; the total is their sum."""
        terms = {"loss": self.loss(logits, labels)}
        blocks = blocks_of(network)
        if self.smoothness and blocks:
            values = [time_smoothness(block.control, block.final_time) for block in blocks]
            terms["smoothness"] = self.smoothness * torch.stack(values).sum()
        if self.tikhonov and blocks:
            values = [tikhonov(block.control, block.final_time) for block in blocks]
            terms["tikhonov"] = self.tikhonov * torch.stack(values).sum()
        return terms


def time_smoothness(control: Control, final_time: float) -> Tensor:
    """½/h Σ_j ‖θ_{j+1} − θ_j‖² on the knots, h = T / knots: the discrete ½ ∫ ‖θ'‖² dt."""
    h = final_time / control.knots
    squares = [value.diff(dim=0).square().sum() for value in control.values().values()]
    return torch.stack(squares).sum() / (2 * h)


def tikhonov(control: Control, final_time: float) -> Tensor:
    """½ h Σ_j ‖θ_j‖² on the knots: the discrete ½ ∫ ‖θ‖² dt."""
    h = final_time / control.knots
    squares = [value.square().sum() for value in control.values().values()]
    return torch.stack(squares).sum() * (h / 2)
