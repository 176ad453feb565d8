"""Checks: what a propagation is given, refused in a sentence before anything is computed."""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from keelnet.dynamics.fields import Dynamics
from keelnet.dynamics.kernels import real_from, require_count
from keelnet.propagation.integrators import Integrator


class NonFiniteError(ValueError):
    """Numbers that are NaN or infinite where finite ones are wanted."""


def require_types(integrator: Integrator, field: Dynamics, controls: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless they are what they should be, controls tensors by name."""
    if not isinstance(integrator, Integrator):
        raise ValueError(f"integrator must be a value like kn.Verlet(), got {integrator!r}")
    if not isinstance(field, Dynamics):
        raise ValueError(
            f"field must be a value like kn.HamiltonianField(…), got {field!r};"
            " a module becomes one by kn.ModuleField(module)"
        )
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


def require_features(y0: Tensor) -> None:
    """Raise ValueError unless y0 is a tensor of floating-point numbers."""
    if not isinstance(y0, Tensor) or not y0.dtype.is_floating_point:
        found = f"a {y0.dtype} tensor" if isinstance(y0, Tensor) else type(y0).__name__
        raise ValueError(f"y0 must be a tensor of floating-point numbers, got {found}")


def widened(y0: Tensor) -> Tensor:
    """y0, in float32 where autocast is on and it comes in half precision: rates may be rounded, the state must not.

    Increments h f(y, θ) vanish in the 8 bits of a bfloat16 state, and with them what steps a layer back.
    """
    narrow = torch.finfo(y0.dtype).bits < 32
    return y0.float() if narrow and _autocasts(y0.device) else y0


def _autocasts(device: torch.device) -> bool:
    """Whether autocast is on, of which some devices know nothing."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def require_finite_features(y0: Tensor) -> None:
    """Raise ValueError where y0 holds NaN or inf."""
    if not all_finite((y0,)):
        raise NonFiniteError("y0 must be finite, but it holds NaN or inf; clean the features first")


def require_finite_controls(controls: Mapping[str, Tensor]) -> None:
    """Raise ValueError where one holds NaN or inf, with the first such layer."""
    for name, value in controls.items():
        if not all_finite((value,)):
            layer = next(j for j, one in enumerate(value.unbind()) if not all_finite((one,)))
            raise NonFiniteError(
                f"{name} must be finite, but that of layer {layer + 1} of {len(value)} holds NaN or inf"
            )


def step_from(step_size: Real | float) -> float:
    """h as a float, which compiled kernels read by its address; raises ValueError unless finite and above 0."""
    return positive_from("step_size", step_size)


def positive_from(name: str, value: object) -> float:
    """A number of any real type as a float; raises ValueError unless it is finite and above 0."""
    number = real_from(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return number


def depth_of(field: Dynamics, controls: Mapping[str, Tensor], depth: int | None = None) -> int:
    """N, the number of layers; raises ValueError where a control does not fit the field."""
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


def require_alike(y0: Tensor, controls: Mapping[str, Tensor], field: Dynamics) -> None:
    """Raise ValueError unless all have one dtype (unless autocast chooses it) and one device.

    Parameters of a module that are no real numbers, such as weights of a spectrum, are of a type of their own; so are
    those of a module of several precisions, one of which is the state's.
    """
    mixed = any(value.dtype == y0.dtype for value in controls.values())
    for name, value in controls.items():
        if value.device != y0.device:
            raise ValueError(f"{name} is on {value.device}, y0 on {y0.device}; move one of them")
        alike = value.dtype == y0.dtype or _autocasts(y0.device)
        if not alike and not _has_own_type(field, name, value, mixed):
            raise ValueError(
                f"{name} has dtype {value.dtype}, y0 has {y0.dtype}; convert one of them with .to()"
            )


def _has_own_type(field: Dynamics, name: str, value: Tensor, mixed: bool) -> bool:
    slot = field.theta_shapes().get(name)
    own = None if slot is None else slot.initial
    if own is None or own.dtype != value.dtype:
        return False
    return mixed or not own.is_floating_point()


def all_finite(state: Sequence[Tensor]) -> bool:
    """Whether every number of every part is finite.

    A sum is finite only if every term is, and reads each number once; a sum that is not may have
    overflowed. Of a tensor that torch.func.vmap maps over, those of all its places.
    """
    return all(
        cmath.isfinite(x.detach().sum().item()) or bool(torch.isfinite(x).all())
        for x in map(_unmapped, state)
        if x.numel()
    )


def _unmapped(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # which does not know how a tensor is unwrapped
        return x
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x
