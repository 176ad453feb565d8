"""The door: features in, features out, everything checked on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor

from keelnet.dynamics.fields import Dynamics
from keelnet.dynamics.kernels import require_count
from keelnet.propagation.bounds import (
    NonFiniteStateError,
    all_finite,
    damped,
    explain_non_finite,
)
from keelnet.propagation.engines.adjoining import whole
from keelnet.propagation.engines.choice import Choice, chosen, explained
from keelnet.propagation.gradients import Controls, Strategy, march, store_all
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
    docstring lists them; y0 and controls share dtype and device. For a partitioned field y0 with
    n channels starts z at 0 and y is returned; with n + k channels it is split in y and z, and
    both are returned, joined on the channel axis. ``strategy`` (store_all, checkpointed,
    reversible) chooses how the gradient remembers the path; the value does not depend on it.
    ``depth`` is needed only where there are no controls to count. ``checked=False`` leaves out the
    looks at the numbers (needed under torch.func.vmap; saves one pass over y0 and y(T)).

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
    field, state, ready, count = _prepared(
        integrator, field, y0, controls, step_size, depth, True, True
    )
    wanted = _wanted(layers, count)
    problem = Problem(integrator, field, state, ready, step_size, count, store_all)
    states = _path(problem, [layer for layer in wanted if layer > 0])
    if not all_finite(states[-1] if states else state):
        raise NonFiniteStateError(
            explain_non_finite(integrator, field, state, ready, step_size, count)
        )
    return [state] * (wanted[0] == 0) + states


def _wanted(layers: Sequence[int] | None, depth: int) -> list[int]:
    wanted = list(range(depth + 1)) if layers is None else list(layers)
    rising = all(0 <= a < b for a, b in pairwise([*wanted, depth + 1]))
    if not wanted or not rising or wanted[-1] > depth:
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
    if not callable(strategy):
        raise ValueError(
            f"strategy must be kn.store_all, kn.checkpointed or kn.reversible, got {strategy!r}"
        )
    field, state, ready, count = _prepared(
        integrator, field, y0, controls, step_size, depth, checked, advise
    )
    split = integrator.adapted(field).is_split(y0)
    problem = Problem(integrator, field, state, ready, step_size, count, strategy)
    engine = chosen(problem)
    final = problem.reference() if engine is None else engine.run(problem)
    ends = integrator.finish(final)
    joined = whole(ends) if split and engine is not None else None
    if checked and not all_finite(final if joined is None else (joined,)):
        raise NonFiniteStateError(
            explain_non_finite(integrator, field, state, ready, step_size, count)
        )
    if joined is None or any(part.requires_grad for part in ends):
        return field.joined(ends, split)
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
    field, state, ready, count = _prepared(
        integrator, field, y0, controls, step_size, depth, False, False
    )
    return explained(Problem(integrator, field, state, ready, step_size, count, strategy))


def _prepared(
    integrator: Integrator,
    field: Dynamics,
    y0: Tensor,
    controls: Mapping[str, Tensor],
    step_size: float,
    depth: int | None,
    checked: bool,
    advise: bool,
) -> tuple[Dynamics, State, Controls, int]:
    """Everything that the loop over layers needs, or a ValueError."""
    _require_types(integrator, field, y0, controls)
    _require_step(step_size)
    field = integrator.adapted(field)
    count = _depth(field, controls, depth)
    ready = field.prepared(dict(controls), count)
    _require_alike(y0, ready)
    if checked:
        _require_finite(y0, ready)
    state = integrator.begin(field.parts(y0))
    return damped(integrator, field, ready, step_size, advise), state, ready, count


def _require_types(
    integrator: Integrator, field: Dynamics, y0: Tensor, controls: Mapping[str, Tensor]
) -> None:
    if not isinstance(integrator, Integrator):
        raise ValueError(f"integrator must be a value like kn.Verlet(), got {integrator!r}")
    if not isinstance(field, Dynamics):
        raise ValueError(f"field must be a value like kn.HamiltonianField(…), got {field!r}")
    if not isinstance(y0, Tensor) or not y0.dtype.is_floating_point:
        found = f"a {y0.dtype} tensor" if isinstance(y0, Tensor) else type(y0).__name__
        raise ValueError(f"y0 must be a tensor of floating-point numbers, got {found}")
    if not isinstance(controls, Mapping):
        raise ValueError(
            "controls must map names to tensors, layers first (of a Control: control.at_layers(depth)),"
            f" got {type(controls).__name__}"
        )
    for name, value in controls.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} must be a tensor, layers first, got {type(value).__name__};"
                " leave out a control that is absent"
            )


def _require_finite(y0: Tensor, controls: Controls) -> None:
    if not all_finite((y0,)):
        raise ValueError("y0 must be finite, but it holds NaN or inf; clean the features first")
    for name, value in controls.items():
        if not all_finite((value,)):
            layer = next(j for j, one in enumerate(value.unbind()) if not all_finite((one,)))
            raise ValueError(
                f"{name} must be finite, but that of layer {layer + 1} of {len(value)} holds NaN or inf"
            )


def _require_step(step_size: float) -> None:
    known = isinstance(step_size, Real) and not isinstance(step_size, bool)
    if not known or not 0 < step_size < math.inf:
        raise ValueError(f"step_size must be a finite number above 0, got {step_size!r}")


def _depth(field: Dynamics, controls: Mapping[str, Tensor], depth: int | None) -> int:
    """N, after checking every control against the field."""
    slots = field.theta_shapes()
    unknown = sorted(controls.keys() - slots.keys())
    missing = sorted(
        name for name, slot in slots.items() if not slot.optional and name not in controls
    )
    if unknown or missing:
        raise ValueError(
            f"{type(field).__name__} takes the controls {', '.join(slots) or '(none)'};"
            f" {'missing: ' + ', '.join(missing) if missing else 'unknown: ' + ', '.join(unknown)}"
        )
    for name, value in controls.items():
        shapes = [slots[name].shape] + [()] * slots[name].or_scalar
        if value.ndim < 1 or tuple(value.shape[1:]) not in shapes:
            wanted = " or ".join(str(("N", *shape)).replace("'", "") for shape in shapes)
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}")
    counts = {name: len(value) for name, value in controls.items()}
    if depth is not None:
        require_count("depth", depth)
        counts["depth"] = depth
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"all controls must have the same number of layers N, got {counts}"
            if counts
            else "there are no controls to count layers by; pass depth"
        )
    require_count("the number of layers N", next(iter(counts.values())))
    return next(iter(counts.values()))


def _require_alike(y0: Tensor, controls: Controls) -> None:
    """One dtype (unless autocast chooses it) and one device."""
    for name, value in controls.items():
        if value.device != y0.device:
            raise ValueError(f"{name} is on {value.device}, y0 on {y0.device}; move one of them")
        if value.dtype != y0.dtype and not torch.is_autocast_enabled(y0.device.type):
            raise ValueError(
                f"{name} has dtype {value.dtype}, y0 has {y0.dtype}; convert one of them with .to()"
            )
