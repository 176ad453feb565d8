"""The door: features in, features out, everything checked on the way."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from keelnet.dynamics.fields import Dynamics
from keelnet.propagation.bounds import NonFiniteStateError, damped, explain_non_finite
from keelnet.propagation.checks import (
    all_finite,
    depth_of,
    require_alike,
    require_features,
    require_finite_controls,
    require_finite_features,
    require_types,
    step_from,
    widened,
)
from keelnet.propagation.engines.adjoining import whole
from keelnet.propagation.engines.choice import Choice, chosen, explained
from keelnet.propagation.gradients import Strategy, march, require_callable, store_all
from keelnet.propagation.integrators import Integrator, State
from keelnet.propagation.problem import Problem


def propagate(
    integrator: Integrator,
    field: Dynamics,
    y0: Tensor,
    controls: Mapping[str, Tensor],
    step_size: float,
    strategy: Strategy = store_all,
    depth: int | None = None,
    checked: bool = True,
) -> Tensor:
    """y(T): the features after all N layers, T = N · step_size.

    y0: (batch, channels, *space). controls: one tensor a name, layers first, as the field's
    docstring lists them; y0 and controls share dtype and device, but under autocast a y0 in half
    precision is taken to float32, in which the state stays. For a partitioned field y0 with n
    channels starts z at 0 and y is returned; with n + k channels it is split in y and z, and both
    are returned, joined on the channel axis. ``strategy`` (store_all, checkpointed, reversible)
    chooses how the gradient remembers the path; the value does not depend on it. ``depth`` is
    needed only where there are no controls to count. ``checked=False`` leaves out the looks at the
    numbers (saves one pass over y0 and y(T)).

    Raises ValueError for shapes, names, types or depths that do not fit, for a strategy that the
    method cannot honour, for non-finite input, and where the state becomes non-finite: the message
    names the first such layer and the step bound. Warns (StabilityWarning) where an antisymmetric
    field has too little damping for its integrator.
    """
    return run(integrator, field, y0, controls, step_size, strategy, depth, checked, advise=checked)


def trajectory(
    integrator: Integrator,
    field: Dynamics,
    y0: Tensor,
    controls: Mapping[str, Tensor],
    step_size: float,
    depth: int | None = None,
    layers: Sequence[int] | None = None,
) -> list[State]:
    """The N + 1 states from t = 0 to T; y is the first entry of each. Arguments as for propagate.

    ``layers`` asks for fewer: the states after these layers, in rising order, 0 being y0 itself.
    (y,) for one-step methods on a field of one part, (y, z) for partitioned fields (with
    ``start="half"``, z from the first layer on is half a step behind y), (y, v) for Leapfrog,
    (y, the y before) for Midpoint.
    """
    problem = _prepared(integrator, field, y0, controls, step_size, store_all, depth)
    wanted = _wanted(layers, problem.depth)
    states = _path(problem, [layer for layer in wanted if layer > 0])
    if not all_finite(states[-1] if states else problem.state):
        raise NonFiniteStateError(_explained(problem))
    return [problem.state] * (wanted[0] == 0) + states


def _wanted(layers: Sequence[int] | None, depth: int) -> list[int]:
    named = range(depth + 1) if layers is None else layers
    try:  # of a tensor, too, whose numbers are no keys of a set
        wanted = [operator.index(layer) for layer in named]
    except TypeError:
        wanted = []
    rising = all(0 <= a < b for a, b in pairwise([*wanted, depth + 1]))
    if not wanted or not rising:
        raise ValueError(
            f"layers must name layers from 0 to {depth}, at least one, in rising order; got {layers!r}"
        )
    return wanted


def _path(problem: Problem, layers: list[int]) -> list[State]:
    """The states after these layers: by an engine, or by the plain loop where a gradient may be asked for."""
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in problem.tensors)
    engine = None if graph or not layers else chosen(problem)
    if engine is not None:
        return engine.path(problem, layers)
    every = march(
        problem.integrator,
        problem.field,
        problem.state,
        problem.controls,
        problem.h,
        range(problem.depth),
    )
    picked = set(layers)
    return [after for layer, after in enumerate(every, 1) if layer in picked]


def run(
    integrator: Integrator,
    field: Dynamics,
    y0: Tensor,
    controls: Mapping[str, Tensor],
    step_size: float,
    strategy: Strategy,
    depth: int | None,
    checked: bool,
    advise: bool,
) -> Tensor:
    """``propagate`` with the advice on damping apart, for callers that ask for it only once."""
    problem = _prepared(
        integrator, field, y0, controls, step_size, strategy, depth, checked, advise
    )
    split = integrator.adapted(problem.field).is_split(y0)
    engine = chosen(problem)
    final = problem.reference() if engine is None else engine.run(problem)
    ends = integrator.finish(final)
    joined = whole(ends) if split and engine is not None else None
    if checked and not all_finite(final if joined is None else (joined,)):
        raise NonFiniteStateError(_explained(problem))
    if joined is None or any(part.requires_grad for part in ends):
        return problem.field.joined(ends, split)
    return joined


def engine_of(
    integrator: Integrator,
    field: Dynamics,
    y0: Tensor,
    controls: Mapping[str, Tensor],
    step_size: float,
    strategy: Strategy = store_all,
    depth: int | None = None,
) -> Choice:
    """Which engine ``propagate`` takes for these arguments, and why; nothing is propagated.

    The answer's ``name`` is "narrow", "dense", "conv", "staged" or "reference", its ``str()`` the reason and
    what kept each other engine from the call.
    """
    problem = _prepared(
        integrator, field, y0, controls, step_size, strategy, depth, checked=False, advise=False
    )
    return explained(problem)


def _prepared(
    integrator: Integrator,
    field: Dynamics,
    y0: Tensor,
    controls: Mapping[str, Tensor],
    step_size: float,
    strategy: Strategy,
    depth: int | None,
    checked: bool = True,
    advise: bool = True,
) -> Problem:
    """Everything that the loop over layers needs, or a ValueError."""
    require_callable(strategy)
    require_types(integrator, field, controls)
    require_features(y0)
    y0 = widened(y0)
    h = step_from(step_size)
    field = integrator.adapted(field)
    count = depth_of(field, controls, depth)
    ready = field.prepared(dict(controls), count)
    require_alike(y0, ready, field)
    if checked:
        require_finite_features(y0)
        require_finite_controls(ready)
    state = integrator.begin(field.parts(y0))
    field = damped(integrator, field, ready, h, advise)
    return Problem(integrator, field, state, ready, h, count, strategy)


def _explained(problem: Problem) -> str:
    return explain_non_finite(
        problem.integrator,
        problem.field,
        problem.state,
        problem.controls,
        problem.h,
        problem.depth,
    )
