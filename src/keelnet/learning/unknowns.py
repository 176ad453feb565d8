"""Unknowns: the parameters that a solver moves, as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from keelnet.learning.objective import Objective
from keelnet.learning.quadratics import Quadratic


class Unknowns:
    """The parameters of a network that need a gradient, but for those of ``fixed``, in one flat vector θ.

    Its norm is that of the functions which the controls sample: a knot weighs h, so that damping by
    it does not depend on the mesh. Raises ValueError where nothing is left to move.
    """

    def __init__(
        self, network: nn.Module, objective: Objective, fixed: nn.Module | None = None
    ) -> None:
        held = set() if fixed is None else set(fixed.parameters())
        moved = {
            name: value
            for name, value in network.named_parameters()
            if value.requires_grad and value not in held
        }
        if not moved:
            raise ValueError("the network has no parameters to train")
        if len({(value.dtype, value.device) for value in moved.values()}) > 1:
            raise ValueError("all parameters must share dtype and device; use network.to()")
        self.names, self.parameters = [*moved], [*moved.values()]
        operators = objective.quadratics(network)
        self.operators = [operators.get(value, Quadratic()) for value in self.parameters]

    def vector(self) -> Tensor:
        """θ, a copy."""
        return torch.cat([value.detach().flatten() for value in self.parameters])

    def assign(self, theta: Tensor) -> None:
        """Put θ in place."""
        with torch.no_grad():
            for value, part in zip(self.parameters, self._parts(theta), strict=True):
                value.copy_(part)

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """θ as tensors by the names of the parameters."""
        return dict(zip(self.names, self._parts(theta), strict=True))

    def flat(self, parts: Sequence[Tensor | None]) -> Tensor:
        """One vector of tensors in the order of the parameters, 0 for None."""
        values = [
            torch.zeros_like(value) if part is None else part
            for value, part in zip(self.parameters, parts, strict=True)
        ]
        return torch.cat([value.detach().flatten() for value in values])

    def curved(self, v: Tensor, damping: float) -> Tensor:
        """The Hessian of the regularisers times v, plus damping · mass · v."""
        return torch.cat(
            [
                (operator.product(part) + (damping * operator.mass) * part).flatten()
                for operator, part in zip(self.operators, self._parts(v), strict=True)
            ]
        )

    def smoothed(self, r: Tensor, damping: float) -> Tensor:
        """(Hessian of the regularisers + damping · mass)⁻¹ r: the inverse of ``curved``."""
        return torch.cat(
            [
                operator.solved(part, damping).flatten()
                for operator, part in zip(self.operators, self._parts(r), strict=True)
            ]
        )

    def weighed(self, v: Tensor) -> float:
        """‖v‖² with the mass of each entry."""
        squares = [
            operator.mass * part.square().sum()
            for operator, part in zip(self.operators, self._parts(v), strict=True)
        ]
        return float(torch.stack(squares).sum())

    def _parts(self, theta: Tensor) -> list[Tensor]:
        pieces = torch.split(theta, [value.numel() for value in self.parameters])
        return [
            piece.reshape(value.shape) for piece, value in zip(pieces, self.parameters, strict=True)
        ]
