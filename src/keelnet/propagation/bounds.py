"""Step bounds: the largest h for which no layer makes the features grow, and what to say where one did."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from keelnet.dynamics.fields import AntisymmetricField, Dynamics, slope_of
from keelnet.propagation.checks import (
    NonFiniteError,
    all_finite,
    depth_of,
    require_finite_controls,
    require_types,
    step_from,
)
from keelnet.propagation.gradients import Controls, march
from keelnet.propagation.implicit import IMEX
from keelnet.propagation.integrators import (
    Complex,
    Integrator,
    Real,
    StabilityWarning,
    State,
    numbers,
    readable,
)


@dataclass(frozen=True)
class StepBound:
    """The largest stable step size over all layers, and the layer (from 0) that sets it."""

    step_size: float
    layer: int


def step_bound(
    integrator: Integrator, field: Dynamics, controls: Controls, step_size: float | None = None
) -> StepBound | None:
    """The largest h with |R(h λ)| ≤ 1 for the extreme eigenvalues λ of every layer, f' at its largest.

    Verlet, one kernel: 2 / σ_max(K); two kernels: 2 / (‖K₁‖ ‖K₂‖); Leapfrog on a SymmetricField
    2 / ‖K‖; Euler there 2 / ‖K‖²; Euler on ½ (K − Kᵀ − γ I): γ / (ω² + γ²/4); Midpoint 1 / ω.
    0 where no step size is stable, inf where every one is; None where the field knows no spectrum,
    as under a norm, which multiplies by up to 1 / √eps times its scale, or the integrator no steps.
    IMEX: that of its explicit half, below which no layer grows, whatever the diffusion, and above which one need not, where
    ∂f/∂y is normal (a SymmetricField of rising f, an AntisymmetricField of the identity); else, and where it is 0, None.
    damping="auto" counts as the γ that it takes at ``step_size``, or as 0 without one. λ is frozen in time: for controls that vary fast the bound is necessary but not sufficient.
    Of a SingleField, and of an f that falls somewhere (sin; gelu and silu a little), whose layers can grow at any step where f' < 0, it is an orientation only.

    controls: one tensor a name, layers first, as for `propagate`. Raises ValueError for those that do not fit the
    field, are not finite or have no layers, and for a step size that is not above 0.
    """
    return _bound(integrator, field, _checked_spectra(integrator, field, controls, step_size))


def _bound(integrator: Integrator, field: Dynamics, layers: Complex | None) -> StepBound | None:
    """Of the eigenvalues of every layer."""
    if isinstance(integrator, IMEX) and not integrator.suffices(field):
        return None
    found = None if layers is None else answered(integrator.largest_steps, layers)
    if found is None:
        return None
    steps = found.min(axis=-1)
    layer = int(np.argmin(steps))
    if isinstance(integrator, IMEX) and steps[layer] == 0:  # with L some step may hold
        return None
    return StepBound(float(steps[layer]), layer)


def answered(question: Callable[..., Real], *given: object) -> Real | None:
    """Of an integrator's ``largest_steps`` or ``amplification``; None where one's own method leaves it unwritten."""
    try:
        return question(*given)
    except NotImplementedError:
        return None


def _checked_spectra(
    integrator: Integrator, field: Dynamics, controls: Controls, h: float | None
) -> Complex | None:
    """`_spectra` of what somebody gave: an eigenvalue solver may end the process on NaN."""
    require_types(integrator, field, controls)
    h = None if h is None else step_from(h)
    adapted = integrator.adapted(field)
    if controls or any(not slot.optional for slot in adapted.theta_shapes().values()):
        controls = adapted.prepared(dict(controls), depth_of(adapted, controls))
    require_finite_controls(controls)
    return _spectra(integrator, field, controls, h)


def _spectra(
    integrator: Integrator, field: Dynamics, controls: Controls, h: float | None
) -> Complex | None:
    """Extreme eigenvalues (layers, any) for prepared controls; damping="auto" as for step size h, or as 0 without one."""
    frozen = {name: value.detach() for name, value in controls.items()}
    field = integrator.adapted(field)
    if isinstance(field, AntisymmetricField) and isinstance(field.damping, str):
        needed = 0.0 if h is None else _needed(integrator, field, h, field.frequencies(frozen))
        field = field.with_damping(needed)
    spectrum = field.spectrum(frozen)
    return None if spectrum is None or not readable(spectrum) else numbers(spectrum)


def damped(
    integrator: Integrator, field: Dynamics, controls: Controls, h: float, advise: bool
) -> Dynamics:
    """The field with damping="auto" resolved; with ``advise``, a warning where a given γ is too small."""
    if not isinstance(field, AntisymmetricField):
        return field
    try:
        if isinstance(field.damping, str):
            with _silently(not advise):
                if field.norm is not None:
                    warnings.warn(_NORMED, StabilityWarning, stacklevel=3)
                omega = _largest(field, controls)
                return field.with_damping(_needed(integrator, field, h, omega))
        if advise:
            _advise(integrator, field, controls, h)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ValueError(
            "the damping of an AntisymmetricField needs finite controls, but weight holds NaN or inf"
        ) from error
    return field


def _needed(integrator: Integrator, field: AntisymmetricField, h: float, omega: Tensor) -> Tensor:
    """The field's least γ at frequencies max |f'| · ω: f takes γ with the kernel, so that f' multiplies both."""
    try:
        return integrator.least_damping(h, omega) / slope_of(field.activation)
    except NotImplementedError as error:
        name = type(integrator).__name__
        raise ValueError(
            f'damping="auto" asks {name} for the least damping that holds, but neither its amplification nor its'
            f" least_damping is written; write one of them, or give a number as damping"
        ) from error


@contextmanager
def _silently(silent: bool) -> Iterator[None]:
    """Without advice. Python forgets what it has shown where its filters are changed, so only if need be."""
    if not silent:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)
        yield


_NORMED = (
    'damping="auto" is chosen for the map without its norm, so it may not hold; see that the growth stays'
    " small (kn.analysis.stability), or give a damping of your own"
)


def _largest(field: AntisymmetricField, controls: Controls) -> Tensor:
    """The largest frequency (1,), differentiable: the norm's derivative costs much more than the norm, and
    is wanted of the layer alone that has it.
    """
    weight = controls["weight"]
    with torch.no_grad():
        layer = field.frequencies({"weight": weight}).argmax()
    # By a tensor as index: torch.func.vmap and torch.export can read no number.
    return field.frequencies({"weight": weight.index_select(0, layer[None])})


# The norms behind the advice cost more than a short propagation: the last advice on each weight is
# kept. Python's own filter decides how often it is shown.
_ADVICE = WeakTensorKeyDictionary()


def _advise(
    integrator: Integrator, field: AntisymmetricField, controls: Controls, h: float
) -> None:
    weight = controls["weight"]
    case = (integrator, field, h, _version(weight), _version(field.damping))
    known = _ADVICE.get(weight)  # type: ignore[no-untyped-call]
    if known is None or not _equal(known[0], case):
        known = (case, _advice(integrator, field, controls, h))
        _ADVICE[weight] = known
    if known[1] is not None:
        warnings.warn(known[1], StabilityWarning, stacklevel=4)


def _equal(known: object, case: object) -> bool:
    """By value, so that a method or a field that is made anew for every call is known again."""
    try:
        return known == case
    except (RuntimeError, ValueError):  # values of one's own that hold arrays have no truth value
        return False


def _version(value: object) -> int:
    """How often a tensor was written to."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _advice(
    integrator: Integrator, field: AntisymmetricField, controls: Controls, h: float
) -> str | None:
    """What to say of a damping that is too small; None where it suffices, or the diffusion of IMEX may do what it does not."""
    eigenvalues = None
    if not isinstance(integrator, IMEX):
        eigenvalues = _spectra(integrator, field, controls, h)
    if eigenvalues is None:
        return None
    found = answered(integrator.amplification, h, eigenvalues)
    if found is None or not (growth := float(found.max())) > 1 + 1e-6:
        return None
    omega = float(np.abs(eigenvalues.imag).max())
    return (
        f"{type(integrator).__name__} at step size {h:g} grows up to {growth:.7g} times a layer:"
        f" damping {torch.as_tensor(field.damping).item():g} does not hold ω = {omega:.4g};"
        f" {_way_out(integrator, field, h, omega)}"
    )


def _way_out(integrator: Integrator, field: AntisymmetricField, h: float, omega: float) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", StabilityWarning)
        try:
            least = float(_needed(integrator, field, h, torch.tensor([omega]).double()))
        except StabilityWarning as warning:
            return str(warning)
    return f'{_rounded_up(least):.4g} would do (or damping="auto")'


def _rounded_up(value: float) -> float:
    """To four digits: a bound from below must not be rounded to less."""
    if value == 0:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return math.ceil(value / unit) * unit


class NonFiniteStateError(NonFiniteError):
    """The state overflowed on its way: input, controls and step size were finite."""


def explain_non_finite(
    integrator: Integrator,
    field: Dynamics,
    state: State,
    controls: Controls,
    h: float,
    depth: int,
) -> str:
    """One sentence: the first layer after which the state is not finite, and the bound that h exceeded."""
    frozen = {name: value.detach() for name, value in controls.items()}
    start = tuple(x.detach() for x in state)
    with torch.no_grad():
        states = march(integrator, field, start, frozen, h, range(depth))
        first = next(
            (count for count, after in enumerate(states) if not all_finite(after)), depth - 1
        )
    begin = f"the state is not finite after layer {first + 1} of {depth} (step size {h:g})"
    passed = {name: value[: first + 1] for name, value in frozen.items()}
    bad = [name for name, value in passed.items() if not all_finite((value,))]
    if bad:
        return f"{begin}: {', '.join(bad)} is not finite there or before"
    bound = _bound(integrator, field, _spectra(integrator, field, passed, None))
    method = f"{type(integrator).__name__} on {type(field).__name__}"
    if bound is None:
        return f"{begin}: {method} has no known step bound; use a smaller step size"
    if bound.step_size == 0:
        return (
            f"{begin}: no step size is stable for {method} with these controls (step bound 0, layer"
            f" {bound.layer + 1}); use a HamiltonianField under Verlet, or damping"
        )
    verdict = "exceeds" if h > bound.step_size else "is within"
    return (
        f"{begin}: it {verdict} the step bound {bound.step_size:.4g} of {method} set by layer"
        f" {bound.layer + 1}; use a smaller step size (more layers at the same final time)"
    )
