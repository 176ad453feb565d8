"""Strategies: all layers, and how the gradient remembers the path. Same value, other memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from keelnet.dynamics.fields import Dynamics, Theta
from keelnet.propagation.effects import is_transformed, without_effects
from keelnet.propagation.integrators import Integrator, State
from keelnet.propagation.shears import Shear, ShearIntegrator, sheared

Controls = dict[str, Tensor]
Strategy = Callable[[Integrator, Dynamics, State, Controls, float, int], State]


def march(
    integrator: Integrator,
    field: Dynamics,
    state: State,
    controls: Controls,
    h: float,
    layers: range,
) -> Iterator[State]:
    """The one loop over layers: yields the state after each. Controls hold these layers only."""
    for layer, theta in zip(layers, unbound(controls, len(layers)), strict=True):
        state = integrator.step(field, state, theta, h, layer)
        yield state


def unbound(controls: Controls, depth: int) -> Iterator[Theta]:
    """θ layer by layer. unbind, not indexing: its backward writes each gradient once."""
    columns = [value.unbind() for value in controls.values()]
    for layer in range(depth):
        yield dict(zip(controls, (column[layer] for column in columns), strict=True))


def last(states: Iterator[State], state: State) -> State:
    """The last of the states, or the first one given where there are none."""
    for following in states:
        state = following
    return state


def store_all(
    integrator: Integrator, field: Dynamics, state: State, controls: Controls, h: float, depth: int
) -> State:
    """Ordinary back-propagation: every layer is remembered. Memory ∝ depth."""
    return last(march(integrator, field, state, controls, h, range(depth)), state)


def checkpointed(
    integrator: Integrator, field: Dynamics, state: State, controls: Controls, h: float, depth: int
) -> State:
    """√depth states are remembered, the layers between them computed again. Memory ∝ √depth."""
    require_strategy(checkpointed, integrator, field)
    if torch.is_grad_enabled():
        _require_no_transform("checkpointed", _REVERSE)
    length = math.isqrt(depth - 1) + 1
    # split, not slices: its backward writes each gradient once.
    pieces = {name: torch.split(value, length) for name, value in controls.items()}
    for number, begin in enumerate(range(0, depth, length)):
        layers = range(begin, min(begin + length, depth))
        window = {name: piece[number] for name, piece in pieces.items()}
        given = (integrator, field, state, window, h, layers)
        segment = partial(checkpoint, _segment, *given, use_reentrant=False)
        if begin == 0 and torch.is_grad_enabled():  # else no layer is evaluated again
            state = without_effects(segment, integrator, field, state, replays=True)
            if is_transformed() and any(map(_may_be_differentiated, state)):
                _require_no_transform("checkpointed", _EVERY)
        else:
            state = segment()
    return state


def _segment(
    integrator: Integrator,
    field: Dynamics,
    state: State,
    controls: Controls,
    h: float,
    layers: range,
) -> State:
    return last(march(integrator, field, state, controls, h, layers), state)


def reversible(
    integrator: Integrator, field: Dynamics, state: State, controls: Controls, h: float, depth: int
) -> State:
    """Only the last state is remembered; the backward pass undoes one shear after the other.

    Memory is independent of depth; each rate is evaluated once forward and once backward. Beyond
    the step bound rounding grows backward as features grow forward, and the gradient loses digits
    with it. Raises ValueError for a method or a field that cannot be stepped back.
    """
    require_strategy(reversible, integrator, field)
    assert isinstance(integrator, ShearIntegrator)
    if not torch.is_grad_enabled():
        return store_all(integrator, field, state, controls, h, depth)
    _require_no_transform("reversible", _EVERY)
    begun = _first_layer(integrator, field, state, controls, h)
    y, z = _Reversible.apply(  # type: ignore[no-untyped-call]
        integrator, field, h, depth, begun, tuple(controls), *state, *controls.values()
    )
    return y, z


def require_strategy(strategy: Strategy, integrator: Integrator, field: Dynamics) -> None:
    """Raise ValueError where a strategy would give another gradient than store_all, or harm the field."""
    require_callable(strategy)
    obstacle = integrator.reversal_obstacle(field) if strategy is reversible else None
    if obstacle is not None:
        raise ValueError(f"{obstacle}; use strategy=kn.checkpointed")
    if strategy in (checkpointed, reversible):
        obstacle = field.recomputation_obstacle(replays_randomness=strategy is checkpointed)
    if obstacle is not None:
        raise ValueError(
            f"strategy kn.{strategy.__name__} evaluates each layer twice, but {obstacle};"
            " use a stateless norm or strategy=kn.store_all"
        )


def require_callable(strategy: object) -> None:
    """Raise ValueError for what is no strategy: its name, say."""
    if not callable(strategy):
        raise ValueError(
            f"strategy must be kn.store_all, kn.checkpointed or kn.reversible, got {strategy!r}"
        )


_EVERY = frozenset(torch._C._functorch.TransformType.__members__.values())
_REVERSE = frozenset([torch._C._functorch.TransformType.Grad])


def _require_no_transform(name: str, kinds: frozenset[Any]) -> None:
    """Raise ValueError within a transform of torch.func that has no way through the strategy of this name."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    found = [each.key().name for each in stack if each.key() in kinds]
    if found:
        raise ValueError(
            f"strategy kn.{name} has no way through the transforms of torch.func ({', '.join(found)});"
            " use strategy=kn.store_all"
        )


def _may_be_differentiated(value: Tensor) -> bool:
    """Whether a gradient may be asked for after the transforms of torch.func, each of which has wrapped the tensor."""
    if value.requires_grad:
        return True
    tangent = torch.autograd.forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
    if tangent is not None and _may_be_differentiated(tangent):
        return True
    functorch = torch._C._functorch
    wrapped = functorch.is_functorch_wrapped_tensor(value)
    return wrapped and _may_be_differentiated(functorch.get_unwrapped(value))


def _first_layer(
    integrator: ShearIntegrator, field: Dynamics, state: State, controls: Controls, h: float
) -> State:
    """The state after layer 0, without a graph.

    It is computed on detached inputs with gradients on: if the result needs one, the field reaches
    a tensor past its arguments, which would silently get no gradient.
    """
    theta = {name: value[0].detach() for name, value in controls.items()}
    start = tuple(x.detach() for x in state)

    def layer() -> State:
        return integrator.step(field, start, theta, h, 0)

    after = without_effects(layer, integrator, field, start, replays=False)
    if any(x.requires_grad for x in after):
        raise ValueError(
            f"{type(field).__name__} reads a tensor that needs a gradient but is no control, and"
            " strategy=kn.reversible would lose that gradient; pass it in controls or use"
            " strategy=kn.store_all"
        )
    return after


class _Once(torch.autograd.Function):
    """Gradients as they are, whose own derivative is an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(x.detach() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "trying to differentiate twice through a reversible pass, whose gradient has no graph;"
            " use strategy=kn.store_all"
        )


def once(gradients: tuple[Any, ...], reached: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """The gradients; where a derivative of them may be asked for, one that says that there is none.

    ``reached``: what they depend on. torch's own once_differentiable lets the derivative in a tensor that is no
    costate pass as 0.
    """
    given = [value for value in gradients if value is not None]
    if not torch.is_grad_enabled() or not given:
        return gradients
    if any(torch._C._functorch.is_legacy_batchedtensor(x) for x in given):
        raise RuntimeError(
            "a batch of gradients at once, with a graph of its own, cannot be taken through a reversible pass;"
            " use strategy=kn.store_all"
        )
    marked = iter(_Once.apply(len(given), *given, *reached))  # type: ignore[no-untyped-call]
    return tuple(None if value is None else next(marked) for value in gradients)


class _Reversible(torch.autograd.Function):
    """Forward without a graph; backward by undoing shears."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        integrator: ShearIntegrator,
        field: Dynamics,
        h: float,
        depth: int,
        begun: State,
        names: tuple[str, ...],
        *tensors: Tensor,
    ) -> State:
        rest = {name: value[1:] for name, value in zip(names, tensors[2:], strict=True)}
        state = last(march(integrator, field, begun, rest, h, range(1, depth)), begun)
        if depth == 1:  # midpoint keeps its input as a part; an output must be a tensor of its own
            state = tuple(x.clone() for x in state)
        ctx.integrator, ctx.field, ctx.h, ctx.depth, ctx.names = integrator, field, h, depth, names
        kind = tensors[0].device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.save_for_backward(*state, *tensors[2:])
        return state

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # once: within torch's checkpoint they are there one time only
        with torch.no_grad():
            found = _Reversible.pulled(ctx, saved, grads)
        return once(found, (*saved, *grads))

    @staticmethod
    def pulled(ctx: Any, saved: tuple[Tensor, ...], grads: State) -> tuple[Any, ...]:
        """The gradient, which has no graph of its own."""
        controls = dict(zip(ctx.names, saved[2:], strict=True))
        wanted = dict(zip(ctx.names, ctx.needs_input_grad[8:], strict=True))
        sums = {name: torch.zeros_like(controls[name]) for name in ctx.names if wanted[name]}
        with torch.autocast(*ctx.autocast):  # the rates again, under the types of the forward pass
            _, costate = _pulled_back(
                ctx.integrator, ctx.field, saved[:2], grads, controls, sums, ctx.h, ctx.depth
            )
        return (None,) * 6 + costate + tuple(sums.get(name) for name in ctx.names)


def _pulled_back(
    integrator: ShearIntegrator,
    field: Dynamics,
    state: State,
    costate: State,
    controls: Controls,
    sums: Controls,
    h: float,
    depth: int,
) -> tuple[State, State]:
    """From the last layer to the first: state and costate before layer 0; ``sums`` filled in place."""
    for layer in reversed(range(depth)):
        theta = {name: value[layer] for name, value in controls.items()}
        layer_sums = {name: value[layer] for name, value in sums.items()}
        state, costate = integrator.relabelled(state), integrator.relabelled(costate)
        for shear in reversed(integrator.shears(field, h, layer)):
            state, costate = _unsheared(shear, state, costate, theta, layer_sums)
    return state, costate


def _unsheared(
    shear: Shear, state: State, costate: State, theta: Theta, sums: Controls
) -> tuple[State, State]:
    """Undo one shear and pull the costate through it, with one evaluation of its rate."""
    source, moved = 1 - shear.moved, shear.moved
    if shear.rate is None:
        undone = sheared(shear._replace(scale=-shear.scale), state, theta)
        pulled = costate[source].add(costate[moved], alpha=shear.scale)
        return undone, _with(costate, source, pulled)
    with torch.enable_grad():
        x = state[source].detach().requires_grad_()
        leaves = {name: theta[name].detach().requires_grad_() for name in sums}
        rate = shear.rate(x, {**theta, **leaves})
    inputs: Sequence[Tensor] = [x, *leaves.values()]
    products: Sequence[Tensor | None] = [None] * len(inputs)
    if rate.requires_grad:
        given = costate[moved].to(rate.dtype)
        products = torch.autograd.grad(rate, inputs, given, allow_unused=True)
    for name, product in zip(leaves, products[1:], strict=True):
        if product is not None:
            sums[name].add_(product, alpha=shear.scale)
    undone = _with(state, moved, state[moved].sub(rate.detach(), alpha=shear.scale))
    if products[0] is None:
        return undone, costate
    return undone, _with(costate, source, costate[source].add(products[0], alpha=shear.scale))


def _with(state: State, index: int, value: Tensor) -> State:
    return (value, state[1]) if index == 0 else (state[0], value)
