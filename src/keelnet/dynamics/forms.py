"""Forms: the rates that are a bent linear map and nothing else, written so that engines can fuse them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keelnet.dynamics.activations import Activation, activation_from
from keelnet.dynamics.fields import AntisymmetricField, Dynamics, SingleField, SymmetricField
from keelnet.dynamics.hamiltonian import DoubleHamiltonianField, HamiltonianField
from keelnet.dynamics.kernels import ConvKernel, DenseKernel, Kernel
from keelnet.dynamics.norms import ChannelNorm, InstanceNorm, Norm


@dataclass(frozen=True)
class Form:
    """rate(x) = sign · f(norm(L x) · scale + u), or sign · Lᵀ f(norm(L x) · scale + u) if ``closed``.

    L is K, or Kᵀ if ``adjoint``; with a ``damping`` γ it is ½ (K − Kᵀ − γ I). The controls are
    weight, bias and scale, each with the suffix.
    """

    kernel: Kernel
    activation: Activation
    norm: Norm | None = None
    sign: float = 1.0
    adjoint: bool = False
    closed: bool = False
    suffix: str = ""
    damping: float | Tensor | None = None

    @property
    def inputs(self) -> int:
        """Channels that L reads."""
        return self.kernel.outputs if self.adjoint else self.kernel.inputs

    @property
    def inner(self) -> int:
        """Channels that L writes and f bends."""
        return self.kernel.inputs if self.adjoint else self.kernel.outputs


def _single(field: Any, **more: Any) -> tuple[Form, ...]:
    return (Form(field.kernel, activation_from(field.activation), field.norm, **more),)


def _antisymmetric(field: Any) -> tuple[Form, ...]:
    return _single(field, damping=field.damping)


def _symmetric(field: Any) -> tuple[Form, ...]:
    return _single(field, sign=-1.0, closed=True)


def _hamiltonian(field: Any) -> tuple[Form, ...]:
    return _single(field, adjoint=True) + _single(field, sign=-1.0)


def _double(field: Any) -> tuple[Form, ...]:
    shared = activation_from(field.activation), field.norm
    return (
        Form(field.kernel_y, *shared, closed=True, suffix="_1"),
        Form(field.kernel_z, *shared, sign=-1.0, closed=True, suffix="_2"),
    )


# By exact type: a subclass may have another rate.
_FORMS: dict[type, Callable[[Any], tuple[Form, ...]]] = {
    SingleField: _single,
    AntisymmetricField: _antisymmetric,
    SymmetricField: _symmetric,
    HamiltonianField: _hamiltonian,
    DoubleHamiltonianField: _double,
}
_PARTS = (DenseKernel, ConvKernel, ChannelNorm, InstanceNorm, type(None))


def forms_of(dynamics: Dynamics) -> tuple[Form, ...] | None:
    """The rate of each part as a form; None where any part of it is not keelnet's own."""
    make = _FORMS.get(type(dynamics))
    if make is None:
        return None
    forms = make(dynamics)
    return forms if all(_is_own(form) for form in forms) else None


def _is_own(form: Form) -> bool:
    """No subclass, and no function that might read tensors of its own."""
    return form.activation.is_known and type(form.kernel) in _PARTS and type(form.norm) in _PARTS


def identity_weight(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weight of a square kernel whose map is the identity."""
    unit = torch.zeros(kernel.weight_shape, dtype=dtype, device=device)
    channels = torch.arange(kernel.outputs, device=device)
    if isinstance(kernel, ConvKernel):
        centre = tuple(size // 2 for size in kernel.stencils)
        places: tuple[Any, ...] = (channels, channels % kernel.weight_shape[1], *centre)
        unit[places] = 1
    else:
        unit[channels, channels] = 1
    return unit
