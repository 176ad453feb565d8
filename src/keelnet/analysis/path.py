"""Path: the layers of a block one by one, and the derivative of all of them in the memory of a few states."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from keelnet.analysis.derivatives import (
    agrees,
    concerns_derivatives,
    difference,
    dual,
    exact_attention,
    moving,
    paired,
    scaled,
    tangent_of,
)
from keelnet.analysis.singular import SMALL, Derivative
from keelnet.dynamics.fields import Dynamics, Theta
from keelnet.dynamics.forms import forms_of
from keelnet.networks.blocks import Block
from keelnet.propagation.bounds import damped
from keelnet.propagation.gradients import last, march
from keelnet.propagation.integrators import RK4, Euler, Integrator, State
from keelnet.propagation.shears import Leapfrog, Midpoint, ShearIntegrator, Verlet, sheared

# By exact type: a subclass may have another step.
OWN = (Euler, RK4, Verlet, Leapfrog, Midpoint)


@dataclass(frozen=True, eq=False)
class Path:
    """What a block computes from features y (samples, channels, *space): begin, ``depth`` layers, features.

    The field is the face that the integrator moves, its damping a number; controls hold every layer, without a
    graph. ``split``: whether the features fill every part of the state. ``typed``: whether the field holds numbers
    that have a type of their own. ``twice``: whether J v takes two reverse passes, for a rate without forward mode;
    ``rough``: whether it is a difference quotient, for one that autograd differentiates but once.
    """

    integrator: Integrator
    field: Dynamics
    controls: dict[str, Tensor]
    h: float
    depth: int
    split: bool
    typed: bool = False
    twice: bool = False
    rough: bool = False

    @classmethod
    def of(cls, block: Block, y: Tensor) -> Path:
        """Raises ValueError for a step size that is not above 0."""
        h, depth, integrator = block.step_size, block.depth, block.integrator
        if not 0 < h < math.inf:
            raise ValueError(f"a step size above 0 was wanted, got {h!r}; set final_time above 0")
        field = integrator.adapted(block.field)
        controls = field.prepared(dict(block.control(depth)), depth)
        frozen = {name: value.detach() for name, value in controls.items()}
        split = field.is_split(y)
        held = block.field.held().values()
        typed = any(isinstance(part, nn.Module) or part.ndim > 0 for part in held)
        with torch.no_grad():
            field = damped(integrator, field, frozen, h, False)
        path = cls(integrator, field, frozen, h, depth, split, typed)
        if path.own:
            return path
        ways = (path, replace(path, twice=True))
        return next((way for way in ways if _is_sound(way, y[:1])), replace(path, rough=True))

    @property
    def own(self) -> bool:
        """Whether all of it is keelnet's, so that its layers can be taken together and differentiated in any way."""
        return type(self.integrator) in OWN and forms_of(self.field) is not None

    @property
    def by_shears(self) -> bool:
        """Whether a layer is its shears: a subclass may have another step."""
        return type(self.integrator).step is ShearIntegrator.step

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

    def _moves(self, layer: int) -> list[Callable[[State], State]]:
        """What a layer does one after another: by shears a part is freed as soon as it is replaced."""
        method, theta = self.integrator, self.theta(layer)
        if not self.by_shears:
            return [partial(self.step, layer=layer)]
        assert isinstance(method, ShearIntegrator)
        shears = method.shears(self.field, self.h, layer)
        return [*(partial(sheared, each, theta=theta) for each in shears), method.relabelled]

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
        if self.twice or self.rough:
            yield from (self._tangents_twice if self.twice else self._quotients)(y, v)
            return
        with torch.no_grad(), exact_attention(), forward_ad.dual_level():
            path, state = self._moved(y, v)
            for after in path.states(state, range(path.depth)):
                yield tangent_of(path.features(after))

    def _tangents_twice(self, y: Tensor, v: Tensor) -> Iterator[Tensor]:
        """Layer by layer, in the memory of the graph of one."""
        state, tangent = _pushed(lambda parts: self.begin(parts[0]), (y,), (v,))
        for layer in range(self.depth):
            state, tangent = _pushed(partial(self.step, layer=layer), state, tangent)
            yield _pushed(lambda parts: (self.features(parts),), state, tangent)[1][0]

    def _quotients(self, y: Tensor, v: Tensor) -> Iterator[Tensor]:
        """(y_j(y + ε v) − y_j(y − ε v)) / 2ε."""
        along, scale = difference(y, v)
        with torch.no_grad():
            ends = (
                self.states(self.begin(y + sign * along), range(self.depth)) for sign in (1, -1)
            )
            for ahead, behind in zip(*ends, strict=True):
                yield scaled(self.features(ahead) - self.features(behind), scale)

    def _moved(self, y: Tensor, v: Tensor) -> tuple[Path, State]:
        """The path and its first state with y + ε v.

        Sums of what has a tangent with what has none make torch load 800 modules (100 MB): other parts of the state and
        small controls get one of zeros.
        """
        controls = {
            name: moving(value) if value.ndim == 2 else value
            for name, value in self.controls.items()
        }
        parts = tuple(moving(part) for part in self.begin(dual(y, v)))
        return replace(self, controls=controls), parts


class PathDerivative(Derivative):
    """J of y(0) ↦ y(T). J v runs beside the states (`Path.tangents`); Jᵀ w runs back through them.

    ``back``: the states of a method of shears are stepped back from the last; for others, and where that is not exact
    enough (`Invariants.returns`), they are computed again by bisection. Memory: two states and what one rate needs, or about
    log₂ depth states and the graph of one layer; ½ log₂ depth evaluations more of every layer.
    """

    def __init__(self, path: Path, y: Tensor, back: bool = False) -> None:
        self.path, self.y, self.back = path, y.detach(), back and path.by_shears
        self.certain, self.whole = not path.rough, SMALL if path.rough else 0

    def pushed(self, v: Tensor) -> Tensor:
        if self.path.twice or self.path.rough:
            return deque(self.path.tangents(self.y, v), maxlen=1).pop()
        with torch.no_grad(), exact_attention(), forward_ad.dual_level():
            path, state = self.path._moved(self.y, v)
            for layer in range(path.depth):
                for move in path._moves(layer):
                    state = move(state)
            return tangent_of(path.features(state))

    def pulled(self, w: Tensor) -> Tensor:
        path = self.path
        with exact_attention():
            costate = self._stepped(w) if self.back else self._bisected(w)
            (pulled,) = _pulled(lambda parts: path.begin(parts[0]), (self.y,), costate)
            return pulled

    def matrix(self) -> Tensor:
        """By J v of every direction at once, or Jᵀ w where J v is rough."""
        path, y = self.path, self.y
        along = path.features(path.begin(y)) if path.rough else y
        samples, size = len(y), along[0].numel()
        identity = torch.eye(size, dtype=y.dtype, device=y.device)
        directions = identity.repeat(samples, 1).reshape(-1, *along.shape[1:])
        many = PathDerivative(path, y.repeat_interleave(size, dim=0))
        if path.rough:
            return many.pulled(directions).reshape(samples, size, -1)
        return many.pushed(directions).reshape(samples, size, -1).mT

    def _stepped(self, w: Tensor) -> State:
        """The costate at the first layer, with the state beside it."""
        path = self.path
        state = path.advanced(path.begin(self.y), range(path.depth))
        costate = _pulled(lambda parts: (path.features(parts),), state, (w,))
        for layer in reversed(range(path.depth)):
            state, costate = _undone(path, state, costate, layer)
        return costate

    def _bisected(self, w: Tensor) -> State:
        path, start = self.path, self.path.begin(self.y)
        costate = _pulled(lambda parts: (path.features(parts),), start, (w,))  # a linear map
        pending = [(start, range(path.depth))]
        while pending:
            state, layers = pending.pop()
            if len(layers) == 1:
                costate = _pulled(partial(path.step, layer=layers.start), state, costate)
                continue
            middle = (layers.start + layers.stop) // 2
            first, second = range(layers.start, middle), range(middle, layers.stop)
            pending += [(state, first), (path.advanced(state, first), second)]
        return costate


def _undone(path: Path, state: State, costate: State, layer: int) -> tuple[State, State]:
    """State and costate before a layer of shears: y += s F(z) is undone by −s, and z̄ += s (∂F/∂z)ᵀ ȳ."""
    method, theta = path.integrator, path.theta(layer)
    assert isinstance(method, ShearIntegrator)
    parts, costates = list(method.relabelled(state)), list(method.relabelled(costate))
    del state, costate  # each half is freed as it is replaced
    for shear in reversed(method.shears(path.field, path.h, layer)):
        moved, other = shear.moved, 1 - shear.moved
        with torch.enable_grad():
            leaf = parts[other].detach().requires_grad_()
            rate = leaf.view_as(leaf) if shear.rate is None else shear.rate(leaf, theta)
            parts[moved] = parts[moved].sub(rate.detach(), alpha=shear.scale)
            product = paired(rate, costates[moved].to(rate.dtype))  # rounded by autocast
        if rate.requires_grad:
            del rate
            (pulled,) = torch.autograd.grad(product, leaf)
            costates[other] = costates[other].add(pulled, alpha=shear.scale)
    return tuple(parts), tuple(costates)


def _pulled(function: Callable[[State], State], state: State, costate: State) -> State:
    """The costate of ``state`` from that of ``function(state)``."""
    with torch.enable_grad():
        leaves = tuple(part.detach().requires_grad_() for part in state)
        products = [
            paired(value, given)
            for value, given in zip(function(leaves), costate, strict=True)
            if value.requires_grad
        ]
        product = torch.stack(products).sum()
        return torch.autograd.grad(product, leaves, allow_unused=True, materialize_grads=True)


def _pushed(
    function: Callable[[State], State], state: State, tangent: State
) -> tuple[State, State]:
    """``function(state)`` and J · tangent: the derivative of the linear map w ↦ Jᵀ w, as in `Jacobian`."""
    with torch.enable_grad(), exact_attention():
        leaves = tuple(part.detach().requires_grad_() for part in state)
        values = function(leaves)
        costates = tuple(torch.zeros_like(value, requires_grad=True) for value in values)
        pulled = torch.autograd.grad(
            _product(values, costates),
            leaves,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        along = _product(pulled, tangent)
    found = costates
    if along.requires_grad:
        found = torch.autograd.grad(along, costates, allow_unused=True, materialize_grads=True)
    return tuple(value.detach() for value in values), tuple(each.detach() for each in found)


def _product(parts: State, others: State) -> Tensor:
    return torch.stack([paired(a, b) for a, b in zip(parts, others, strict=True)]).sum()


def _is_sound(path: Path, y: Tensor) -> bool:
    """Whether its J v and Jᵀ w are of one J at one sample y.

    Some operations have no forward mode or no second derivative; a rate that differentiates a detached copy loses the
    tangent in silence, a custom Function its second derivative.
    """
    try:
        return agrees(PathDerivative(path, y))
    except NotImplementedError:
        return False
    except RuntimeError as reason:
        if path.twice and concerns_derivatives(reason):
            return False
        raise
