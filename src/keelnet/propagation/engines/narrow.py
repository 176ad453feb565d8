"""The narrow engine: every layer on a few samples at a time, compiled by Numba, the state in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from keelnet.propagation.engines import block_loop
from keelnet.propagation.engines.execution import NO_MOVES, Engine, Gradients
from keelnet.propagation.engines.tile_call import TileCall
from keelnet.propagation.engines.tile_obstacle import (
    LARGEST_RECORD,
    channels,
    record_bytes,
    tile_obstacle,
)
from keelnet.propagation.gradients import reversible
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem

WIDEST = 24  # above, blocks of wider tiles are as fast
WIDEST_OF_FEW = 128  # the same for fewer samples than those take; then torch's own products
WIDEST_OF_FEW_FORWARD = 256  # and where no gradient is asked for


class Narrow(Engine):
    """Dense fields of few channels, without norms."""

    name: ClassVar[str] = "narrow"

    def obstacle(self, problem: Problem) -> str | None:
        if problem.moves is None:
            return NO_MOVES
        widest = _widest(problem)
        if channels(problem) > widest:
            return f"more than {widest} channels: other engines are as fast"
        obstacle = tile_obstacle(problem)
        if obstacle is not None:
            return obstacle
        if problem.strategy is not reversible and record_bytes(problem) > LARGEST_RECORD:
            return "one tile's path would not fit into memory"
        return None

    def reason(self, problem: Problem) -> str:
        widths = " and ".join(str(part.shape[-1]) for part in problem.state)
        return f"dense layers of {widths} channels: all layers on tiles that stay in the cache"

    def forward(self, problem: Problem, remembers: bool) -> tuple[State, tuple[Tensor, ...]]:
        return TileCall(problem).forward("forward"), ()

    def path(self, problem: Problem, layers: Sequence[int]) -> list[State]:
        return TileCall(problem).path("forward", layers)

    def backward(
        self,
        problem: Problem,
        final: State,
        kept: tuple[Tensor, ...],
        costate: tuple[Tensor, ...],
        wanted: tuple[bool, ...],
    ) -> Gradients:
        call = TileCall(problem, wanted)
        return call.pulled("backward", costate, undoes=problem.strategy is reversible)


def _widest(problem: Problem) -> int:
    """The most channels at which this engine is the fastest."""
    if problem.state[0].numel() // problem.state[0].shape[-1] >= block_loop.FEWEST:
        return WIDEST
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in problem.tensors)
    return WIDEST_OF_FEW if graph else WIDEST_OF_FEW_FORWARD
