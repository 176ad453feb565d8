"""The weight that the products of a form use, and the way back to the control's own gradient."""

from __future__ import annotations

from torch import Tensor

from keelnet.dynamics.forms import Form, identity_weight


def effective_weight(form: Form, weight: Tensor) -> Tensor:
    """The control's own weight, or ½ (K − Kᵀ − γ I); leading axes are layers."""
    if form.damping is None:
        return weight
    assert not isinstance(form.damping, str)
    skew = form.kernel.antisymmetric(weight)
    if not isinstance(form.damping, Tensor) and form.damping == 0:
        return skew
    return skew - 0.5 * form.damping * _identity(form, weight)


def own_gradients(form: Form, effective: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients by a damped form's K and by γ, from that by its effective weight (layers first)."""
    damping = -0.5 * (effective * _identity(form, effective)).sum()
    return form.kernel.antisymmetric(effective), damping


def _identity(form: Form, like: Tensor) -> Tensor:
    return identity_weight(form.kernel, like.dtype, like.device)
