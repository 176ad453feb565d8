"""Path: the layers of a block one by one, and the derivative of all of them in the memory of a few states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from keelnet.analysis.derivatives import exact_attention
from keelnet.analysis.singular import Derivative
from keelnet.dynamics.fields import Dynamics, Theta
from keelnet.networks.blocks import Block
from keelnet.propagation.bounds import damped
from keelnet.propagation.gradients import last, march
from keelnet.propagation.integrators import Integrator, State


@dataclass(frozen=True, eq=False)
class Path:
    """What a block computes from features y (samples, channels, *space): begin, ``depth`` layers, features.

    The field is the face that the integrator moves, its damping a number; controls hold every layer, without a
    graph. ``split``: whether the features fill every part of the state.
    """

    integrator: Integrator
    field: Dynamics
    controls: dict[str, Tensor]
    h: float
    depth: int
    split: bool

    @classmethod
    def of(cls, block: Block, y: Tensor) -> Path:
        """Raises ValueError for a step size that is not above 0."""
        h, depth, integrator = block.step_size, block.depth, block.integrator
        if not 0 < h < math.inf:
            raise ValueError(f"a step size above 0 was wanted, got {h!r}; set final_time above 0")
        field = integrator.adapted(block.field)
        controls = field.prepared(dict(block.control.at_layers(depth)), depth)
        frozen = {name: value.detach() for name, value in controls.items()}
        split = field.is_split(y)
        with torch.no_grad():
            return cls(
                integrator, damped(integrator, field, frozen, h, False), frozen, h, depth, split
            )

    def begin(self, y: Tensor) -> State:
        """The state before layer 0."""
        return self.integrator.begin(self.field.parts(y))

    def features(self, state: State) -> Tensor:
        """What the block returns of its last state."""
        return self.field.joined(self.integrator.finish(state), self.split)

    def theta(self, layer: int) -> Theta:
        return {name: value[layer] for name, value in self.controls.items()}

    def step(self, state: State, layer: int) -> State:
        return self.integrator.step(self.field, state, self.theta(layer), self.h, layer)

    def states(self, state: State, layers: range) -> Iterator[State]:
        """The states after each of these layers."""
        part = {name: value[layers.start : layers.stop] for name, value in self.controls.items()}
        return march(self.integrator, self.field, state, part, self.h, layers)

    def advanced(self, state: State, layers: range) -> State:
        """The state after these layers, without a graph."""
        with torch.no_grad():
            return last(self.states(state, layers), state)

    def to(self, dtype: torch.dtype) -> Path:
        """The same path of numbers of another type."""
        return replace(self, controls={name: x.to(dtype) for name, x in self.controls.items()})

    def tangents(self, y: Tensor, v: Tensor) -> Iterator[Tensor]:
        """J_j v after j = 1 … depth layers, J_j the derivative of the features at layer j by those at 0."""
        with torch.no_grad(), exact_attention(), forward_ad.dual_level():
            state = self.begin(forward_ad.make_dual(y, v))  # type: ignore[no-untyped-call]
            for after in self.states(state, range(self.depth)):
                yield _tangent(self.features(after))


class PathDerivative(Derivative):
    """J of y(0) ↦ y(T). J v runs beside the states; for Jᵀ w states are computed again by bisection.

    Memory: about log₂ depth states and the graph of one layer; time: ½ log₂ depth evaluations more of every layer.
    """

    def __init__(self, path: Path, y: Tensor) -> None:
        self.path, self.y = path, y.detach()

    def pushed(self, v: Tensor) -> Tensor:
        path = self.path
        with torch.no_grad(), exact_attention(), forward_ad.dual_level():
            state = path.begin(forward_ad.make_dual(self.y, v))  # type: ignore[no-untyped-call]
            return _tangent(path.features(last(path.states(state, range(path.depth)), state)))

    def pulled(self, w: Tensor) -> Tensor:
        with exact_attention():
            state = self.path.begin(self.y)
            ends = tuple(torch.empty_like(part) for part in state)
            costate = _pulled(lambda parts: (self.path.features(parts),), ends, (w,))
            costate = self._through(state, costate, range(self.path.depth))
            (pulled,) = _pulled(lambda parts: self.path.begin(parts[0]), (self.y,), costate)
            return pulled

    def matrix(self) -> Tensor:
        """By J v of every direction at once."""
        samples, size = len(self.y), self.y[0].numel()
        identity = torch.eye(size, dtype=self.y.dtype, device=self.y.device)
        directions = identity.repeat(samples, 1).reshape(-1, *self.y.shape[1:])
        many = PathDerivative(self.path, self.y.repeat_interleave(size, dim=0))
        return many.pushed(directions).reshape(samples, size, -1).mT

    def _through(self, state: State, costate: State, layers: range) -> State:
        if len(layers) == 1:
            layer = layers.start
            return _pulled(lambda parts: self.path.step(parts, layer), state, costate)
        middle = (layers.start + layers.stop) // 2
        first, second = range(layers.start, middle), range(middle, layers.stop)
        costate = self._through(self.path.advanced(state, first), costate, second)
        return self._through(state, costate, first)


def _pulled(function: Callable[[State], State], state: State, costate: State) -> State:
    """The costate of ``state`` from that of ``function(state)``."""
    with torch.enable_grad():
        leaves = tuple(part.detach().requires_grad_() for part in state)
        pairs = [
            (value, given)
            for value, given in zip(function(leaves), costate, strict=True)
            if value.requires_grad
        ]
        values, given = zip(*pairs, strict=True)
        return torch.autograd.grad(values, leaves, given, allow_unused=True, materialize_grads=True)


def _tangent(dual: Tensor) -> Tensor:
    """Its tangent; 0 where the map does not depend on its input."""
    primal, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return torch.zeros_like(primal) if tangent is None else tangent
