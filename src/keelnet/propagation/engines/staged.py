"""The staged engine: Runge–Kutta methods on the tiles of the narrow one, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from keelnet.propagation.engines.execution import Engine, Gradients
from keelnet.propagation.engines.tile_call import TileCall
from keelnet.propagation.engines.tile_obstacle import channels, tile_obstacle
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem

WIDEST = 256  # above, torch's own products are as fast


class Staged(Engine):
    """Dense fields of few channels, without norms, moved by all parts at once: RK4, and Euler on two parts."""

    name: ClassVar[str] = "staged"

    def obstacle(self, problem: Problem) -> str | None:
        if problem.stages is None:
            return "a layer is a sequence of moves"
        if torch.is_grad_enabled() and any(x.requires_grad for x in problem.tensors):
            return "a gradient is asked for, and it has none"
        if channels(problem) > WIDEST:
            return f"more than {WIDEST} channels: torch's own products are as fast"
        return tile_obstacle(problem)

    def reason(self, problem: Problem) -> str:
        assert problem.stages is not None
        widths = " and ".join(str(part.shape[-1]) for part in problem.state)
        count = len(problem.stages.weights)
        return (
            f"dense layers of {widths} channels, {count} stage{'s' * (count > 1)} each:"
            " all layers on tiles that stay in the cache"
        )

    def forward(self, problem: Problem, remembers: bool) -> tuple[State, tuple[Tensor, ...]]:
        return TileCall(problem).forward("staged"), ()

    def path(self, problem: Problem, layers: Sequence[int]) -> list[State]:
        return TileCall(problem).path("staged", layers)

    def backward(
        self,
        problem: Problem,
        final: State,
        kept: tuple[Tensor, ...],
        costate: tuple[Tensor, ...],
        wanted: tuple[bool, ...],
    ) -> Gradients:
        raise AssertionError("obstacle() declines what needs a gradient")
