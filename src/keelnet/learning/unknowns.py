"""Unknowns: the parameters that a solver moves, as one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from keelnet.learning.objective import Objective
from keelnet.learning.quadratics import Quadratic
from keelnet.learning.solvers import Linear

LARGEST_MATRIX = 256  # knots up to which an operator in time is multiplied as a matrix


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

    def curved(self, damping: float) -> Linear:
        """v ↦ the Hessian of the regularisers times v, plus damping · mass · v."""
        return self._each(lambda op, v: op.product(v) + (damping * op.mass) * v)

    def smoothed(self, damping: float) -> Linear:
        """r ↦ (Hessian of the regularisers + damping · mass)⁻¹ r: the inverse of ``curved``."""
        return self._each(lambda op, r: op.solved(r, damping))

    def _each(self, apply: Callable[[Quadratic, Tensor], Tensor]) -> Linear:
        """A linear map on vectors from one on tensors; where few knots are all it joins, it is a matrix."""
        maps: dict[tuple[Quadratic, int], Tensor] = {}
        for operator, value in zip(self.operators, self.parameters, strict=True):
            if operator.joins_only_first and 1 < len(value) <= LARGEST_MATRIX:
                identity = torch.eye(len(value), dtype=value.dtype, device=value.device)
                maps.setdefault((operator, len(value)), apply(operator, identity))

        def mapped(operator: Quadratic, part: Tensor) -> Tensor:
            matrix = maps.get((operator, len(part))) if part.ndim else None
            if matrix is None:
                return apply(operator, part).flatten()
            return (matrix @ part.flatten(1)).flatten() if part.ndim > 1 else matrix @ part

        return lambda v: torch.cat([*map(mapped, self.operators, self._parts(v))])

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
