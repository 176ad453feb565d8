"""Bends: the activation of a linear map's normed and biased answer, and the energy behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from keelnet.dynamics.activations import ActivationChoice, activation_from
from keelnet.dynamics.holders import Holder, Own
from keelnet.dynamics.kernels import Kernel
from keelnet.dynamics.norms import Norm


class Bender(Holder):
    """A field that bends linear maps: by one activation, which may be a module, after one norm or none."""

    activation: ActivationChoice
    norm: Norm | None

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        return activation_from(self.activation).held()

    def holding(self: Own, parts: Mapping[str, object]) -> Own:
        others = {name: part for name, part in parts.items() if name != "activation"}
        new = super().holding(others)
        if "activation" in parts:
            own = activation_from(self.activation)  # type: ignore[attr-defined]
            function: Any = parts["activation"]
            object.__setattr__(new, "activation", own.holding(function))
        return new


def bent(
    kernel: Kernel,
    activation: ActivationChoice,
    norm: Norm | None,
    x: Tensor,
    theta: Mapping[str, Tensor],
    suffix: str,
) -> Tensor:
    """f(norm(x) · scale + u), the scale and the bias read from θ where they are present."""
    assert not isinstance(activation, str)
    return activation(_affine(kernel, norm, x, theta, suffix))


def _affine(
    kernel: Kernel, norm: Norm | None, x: Tensor, theta: Mapping[str, Tensor], suffix: str
) -> Tensor:
    if norm is not None:
        x = norm.apply(x, kernel.channel_axis) * kernel.per_channel(theta[f"scale{suffix}"])
    bias = theta.get(f"bias{suffix}")
    return x if bias is None else x + kernel.per_channel(bias)


def potential(
    kernel: Kernel,
    activation: ActivationChoice,
    norm: Norm | None,
    x: Tensor,
    theta: Mapping[str, Tensor],
    suffix: str,
) -> Tensor:
    """Σ F(x + u) over everything but the batch axis; raises ValueError where F is not known."""
    activation = activation_from(activation)
    if activation.primitive is None or norm is not None:
        raise ValueError(
            f"no energy is known for activation {activation.name!r}"
            f"{' under a norm' if norm else ''}; use tanh, relu, sin, sigmoid or identity without a norm"
        )
    values = activation.primitive(_affine(kernel, norm, x, theta, suffix))
    return values.sum(dim=tuple(range(1, values.ndim)))
