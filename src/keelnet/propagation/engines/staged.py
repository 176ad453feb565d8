"""The staged engine: Runge–Kutta methods on the tiles of the narrow one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from keelnet.propagation.engines.execution import Engine, Gradients
from keelnet.propagation.engines.tile_call import TileCall
from keelnet.propagation.engines.tile_obstacle import (
    LARGEST_RECORD,
    channels,
    record_bytes,
    tile_obstacle,
)
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem

WIDEST = 128  # above, torch's own products are as fast
WIDEST_FORWARD = 256  # and where no gradient is asked for


class Staged(Engine):
    """Dense fields of few channels, without norms, moved by all parts at once: RK4, and Euler on two parts."""

    name: ClassVar[str] = "staged"

    def obstacle(self, problem: Problem) -> str | None:
        if problem.stages is None:
            return "a layer is a sequence of moves"
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in problem.tensors)
        widest = WIDEST if graph else WIDEST_FORWARD
        if channels(problem) > widest:
            return f"more than {widest} channels: torch's own products are as fast"
        if graph and record_bytes(problem) > LARGEST_RECORD:
            return "one tile's path would not fit into memory"
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
        return TileCall(problem).forward("stages_forward"), ()

    def path(self, problem: Problem, layers: Sequence[int]) -> list[State]:
        return TileCall(problem).path("stages_forward", layers)

    def backward(
        self,
        problem: Problem,
        final: State,
        kept: tuple[Tensor, ...],
        costate: tuple[Tensor, ...],
        wanted: tuple[bool, ...],
    ) -> Gradients:
        return TileCall(problem, wanted).pulled("stages_backward", costate)
