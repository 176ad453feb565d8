"""The dense engine: compiled blocks of tiles, or torch's products with one pass for everything else of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.dynamics.kernels import DenseKernel
from keelnet.dynamics.norms import InstanceNorm
from keelnet.propagation.engines import block_loop
from keelnet.propagation.engines.effective import effective_weight
from keelnet.propagation.engines.execution import NO_MOVES
from keelnet.propagation.engines.loop import Arrays, Loop
from keelnet.propagation.engines.products import Products
from keelnet.propagation.engines.sweep import Sweep
from keelnet.propagation.engines.swept import Swept
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem


@dataclass
class DenseProducts(Products):
    """L x = x M, or x Mᵀ if ``adjoint``, M (n, k)."""

    matrix: Tensor
    adjoint: bool
    out: Tensor

    @property
    def map(self) -> Tensor:
        return self.matrix.T if self.adjoint else self.matrix

    def apply(self, x: Tensor) -> Tensor:
        return torch.mm(x, self.map, out=self.out)

    def add_adjoint(self, g: Tensor, target: Tensor, factor: float, dest: Tensor) -> None:
        torch.addmm(target, g, self.map.T, alpha=factor, out=dest)

    def add_gradient(self, x: Tensor, g: Tensor, sums: Tensor, factor: float, fresh: bool) -> None:
        left, right = (g, x) if self.adjoint else (x, g)
        torch.addmm(sums, left.T, right, beta=0 if fresh else 1, alpha=factor, out=sums)


@dataclass
class DenseSweep(Sweep):
    """Products of matrices; one buffer for each shape of a product."""

    rows: int = 0
    _buffers: dict[int, Tensor] = field(default_factory=dict)

    def products(self, form: Form, layer: int) -> Products:
        weight = self.layers(f"weight{form.suffix}")[layer]
        if form.inner not in self._buffers:
            self._buffers[form.inner] = weight.new_empty((self.rows, form.inner))
        return DenseProducts(
            effective_weight(form, weight), form.adjoint, self._buffers[form.inner]
        )


class Dense(Swept):
    """Dense fields of any width, with or without a norm."""

    name: ClassVar[str] = "dense"

    def obstacle(self, problem: Problem) -> str | None:
        if problem.moves is None:
            return NO_MOVES
        forms = [move.form for move in problem.moves[0] if move.form is not None]
        if not all(type(form.kernel) is DenseKernel for form in forms):
            return "the kernel is a convolution"
        if any(isinstance(form.norm, InstanceNorm) for form in forms):
            return "rows have no space to norm over"
        return None

    def reason(self, problem: Problem) -> str:
        widths = " and ".join(str(part.shape[-1]) for part in problem.state)
        found = _blocks_obstacle(problem)
        if found is None:
            return (
                f"dense layers of {widths} channels: product, activation and move in one, compiled"
            )
        return (
            f"dense layers of {widths} channels: torch's matrix products, one pass for the rest"
            f" (not compiled into one, for {found})"
        )

    def arrays(self, state: State) -> Arrays:
        return [
            part.detach().resolve_neg().reshape(-1, part.shape[-1]).contiguous() for part in state
        ]

    def parts(self, arrays: Arrays, like: State) -> State:
        return tuple(a.reshape(part.shape) for a, part in zip(arrays, like, strict=True))

    def loop(self, problem: Problem) -> Loop:
        if _blocks_obstacle(problem) is None:
            return block_loop.BlockLoop(problem)
        part = problem.state[0]
        return DenseSweep(problem, rows=part.numel() // part.shape[-1])


def _blocks_obstacle(problem: Problem) -> str | None:
    """Why the compiled blocks cannot take the propagation; None if they can."""
    if problem.state[0].device.type != "cpu":
        return "blocks run on the processor"
    return block_loop.obstacle(problem)
