"""The conv engine: oneDNN's or cuDNN's convolutions on states whose channels lie last in memory, one pass for the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.dynamics.kernels import ConvKernel
from keelnet.dynamics.norms import InstanceNorm
from keelnet.propagation.engines.conv_products import ConvProducts, Prepared
from keelnet.propagation.engines.execution import NO_MOVES
from keelnet.propagation.engines.loop import Arrays, Loop
from keelnet.propagation.engines.products import Products
from keelnet.propagation.engines.sweep import Sweep
from keelnet.propagation.engines.swept import Swept
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem

Precision = Literal["state", "bfloat16"]


@dataclass
class LayerProducts(Products):
    """One layer's convolutions on arrays (points, channels) of ``shape`` (batch, *space)."""

    owner: ConvProducts
    form: Form
    prepared: Prepared
    shape: tuple[int, ...]

    def _state(self, array: Tensor) -> Tensor:
        """(batch, channels, *space), the array's own memory."""
        return array.view(*self.shape, array.shape[-1]).movedim(-1, 1)

    def apply(self, x: Tensor) -> Tensor:
        return _array(self.owner.apply(self.form, self.prepared, self._state(x)))

    def add_adjoint(self, g: Tensor, target: Tensor, factor: float, dest: Tensor) -> None:
        if dest is target:
            state = self._state(g), self._state(dest)
            self.owner.add_adjoint(self.form, self.prepared, *state, factor)
        else:
            found = self.owner.adjoint(self.form, self.prepared, self._state(g))
            torch.add(target, _array(found), alpha=factor, out=dest)

    def add_gradient(self, x: Tensor, g: Tensor, sums: Tensor, factor: float, fresh: bool) -> None:
        self.owner.add_gradient(self.form, self._state(x), self._state(g), sums, factor, fresh)


@dataclass
class ConvSweep(Sweep):
    """Products of convolutions."""

    owner: ConvProducts = field(default_factory=ConvProducts)
    shape: tuple[int, ...] = ()

    def products(self, form: Form, layer: int) -> Products:
        weight = self.layers(f"weight{form.suffix}")[layer]
        return LayerProducts(self.owner, form, self.owner.prepared(form, weight), self.shape)


class Conv(Swept):
    """Fields of convolutions in 1, 2 and 3 dimensions, with or without a norm."""

    name: ClassVar[str] = "conv"

    def __init__(self, products: Precision = "state") -> None:
        self.precision = products
        self._owner = ConvProducts(products)

    def obstacle(self, problem: Problem) -> str | None:
        if problem.moves is None:
            return NO_MOVES
        if problem.state[0].device.type != "cpu" and self.precision == "bfloat16":
            return "its products in bfloat16 are oneDNN's, on the processor"
        forms = [move.form for move in problem.moves[0] if move.form is not None]
        if not all(type(form.kernel) is ConvKernel for form in forms):
            return "the kernel is no convolution"
        return None

    def reason(self, problem: Problem) -> str:
        assert problem.moves is not None
        forms = [move.form for move in problem.moves[0] if move.form is not None]
        filtered = any(self._owner.filters(form, problem.state[0]) for form in forms)
        products = ", products in bfloat16" if self.precision == "bfloat16" else ""
        products = ", stencils of 3 by Winograd's filtering" if filtered else products
        return f"convolutions with channels last, one pass for the rest{products}"

    def arrays(self, state: State) -> Arrays:
        return [_array(part.detach()) for part in state]

    def parts(self, arrays: Arrays, like: State) -> State:
        return tuple(
            array.view(len(part), *part.shape[2:], array.shape[-1]).movedim(-1, 1)
            for array, part in zip(arrays, like, strict=True)
        )

    def loop(self, problem: Problem) -> Loop:
        first = problem.state[0]
        assert problem.moves is not None
        blocks = any(
            move.form is not None and isinstance(move.form.norm, InstanceNorm)
            for move in problem.moves[0]
        )
        shape = (len(first), *first.shape[2:])
        return ConvSweep(problem, len(first) if blocks else 1, owner=self._owner, shape=shape)


def _array(state: Tensor) -> Tensor:
    """(points, channels), contiguous: the state's own memory where its channels lie last."""
    last = state.movedim(1, -1).contiguous()
    return last.view(-1, last.shape[-1])
