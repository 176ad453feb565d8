"""Fields: the right-hand sides y' = f(y, θ). A field is mathematics and owns no parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from keelnet.dynamics.activations import ActivationChoice, activation_from
from keelnet.dynamics.bends import Bender, bent, potential
from keelnet.dynamics.eigenvalues import eigenvalues_of
from keelnet.dynamics.holders import Holder
from keelnet.dynamics.kernels import Kernel, real_from
from keelnet.dynamics.norms import Norm

Theta = Mapping[str, Tensor]
Parts = tuple[Tensor, ...]


class Slot(NamedTuple):
    """What one control must look like in one layer; ``frozen``: a Control of it is not trained."""

    shape: tuple[int, ...]
    optional: bool = False
    or_scalar: bool = False
    kernel: Kernel | None = None
    fill: float = 0.0
    initial: Tensor | None = None
    frozen: bool = False


class Dynamics(Holder):
    """The common face of one-part and two-part fields: what the loop over layers needs."""

    # A field that contracts cannot be stepped back: rounding grows as fast as the state shrank.
    contracts: bool = False

    @property
    @abstractmethod
    def channel_axis(self) -> int:
        """Axis of the state that holds channels."""

    @abstractmethod
    def theta_shapes(self) -> dict[str, Slot]:
        """The controls of one layer, by name."""

    @abstractmethod
    def parts(self, y0: Tensor) -> Parts:
        """The state at t = 0 from the features; raises ValueError for a wrong shape."""

    @abstractmethod
    def rates(self, parts: Parts, theta: Theta) -> Parts:
        """The time derivative of every part."""

    @abstractmethod
    def is_split(self, y0: Tensor) -> bool:
        """Whether the features fill every part of the state (and are joined again at the end)."""

    def joined(self, parts: Parts, split: bool) -> Tensor:
        """The inverse of ``parts``: y, or all parts on the channel axis when they were split."""
        return torch.cat(parts, dim=self.channel_axis) if split else parts[0]

    def spectrum(self, controls: Theta) -> Tensor | None:
        """Extreme eigenvalues (layers, any) of the Jacobian at f' = its largest slope; None if unknown.

        Under a norm they are unknown: its slope depends on the state, and is up to 1 / √eps times its scale.
        """
        return None

    def prepared(self, controls: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
        """Controls with what the field itself can add; most fields add nothing."""
        return controls

    def owned(self, names: Collection[str]) -> Dynamics:
        """The field of a Block whose Control holds the parameters of these names: nothing of them is held twice."""
        return self

    def paired(self) -> Dynamics:
        """The partitioned face of this field; raises ValueError where there is none."""
        raise ValueError(
            f"{type(self).__name__} has one part, but a partitioned method moves two; use"
            " HamiltonianField, DoubleHamiltonianField or a ModuleField"
        )

    def recomputation_obstacle(self, replays_randomness: bool) -> str | None:
        """Why evaluating the field a second time would do harm; None if it would not."""
        return None


class Field(Dynamics):
    """A field of one part: y' = rate(y, θ)."""

    @abstractmethod
    def rate(self, y: Tensor, theta: Theta) -> Tensor:
        """f(y, θ), same shape as y."""

    def rates(self, parts: Parts, theta: Theta) -> Parts:
        return (self.rate(parts[0], theta),)

    def is_split(self, y0: Tensor) -> bool:
        return False


@dataclass(frozen=True)
class KernelField(Bender, Field):
    """What the fields of one kernel share: the bent linear map f(norm(K y) · scale + u)."""

    kernel: Kernel
    activation: ActivationChoice = "tanh"
    norm: Norm | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_kernel(self, self.kernel)
        require_norm(self, self.norm)
        object.__setattr__(self, "activation", activation_from(self.activation))

    @property
    def channel_axis(self) -> int:
        return self.kernel.channel_axis

    def theta_shapes(self) -> dict[str, Slot]:
        return kernel_slots(self.kernel, self.norm)

    def parts(self, y0: Tensor) -> Parts:
        self.kernel.check_state(y0, self.kernel.inputs)
        return (y0,)

    def bent(self, y: Tensor, weight: Tensor, theta: Theta) -> Tensor:
        """f(K y + u)."""
        return bent(
            self.kernel, self.activation, self.norm, self.kernel.apply(weight, y), theta, ""
        )


@dataclass(frozen=True)
class SingleField(KernelField):
    """y' = f(y K + u): under Euler, the plain residual network.

    Controls: ``weight`` (N, n, n) or (N, n, n, *stencil); ``bias`` (N, n), (N,) or absent.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require_square(self, self.kernel)

    def rate(self, y: Tensor, theta: Theta) -> Tensor:
        return self.bent(y, theta["weight"], theta)

    def spectrum(self, controls: Theta) -> Tensor | None:
        if self.norm is not None:
            return None
        matrices, _ = self.kernel.symbol(controls["weight"])
        return slope_of(self.activation) * eigenvalues_of(matrices)


@dataclass(frozen=True)
class AntisymmetricField(KernelField):
    """y' = f(½ y (K − Kᵀ − γ I) + u): every eigenvalue has real part −γ/2 (Haber & Ruthotto 2018, eq. 4.12).

    Controls as for SingleField. ``damping`` is γ ≥ 0, or "auto" for the least γ that keeps the
    integrator stable with these controls and this step size: under Euler γ (1 − h γ / 4) = h ω²
    with ω the spectral radius of ½ (K − Kᵀ). The choice is differentiable in K.
    """

    damping: float | Tensor | Literal["auto"] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_square(self, self.kernel)
        learned = isinstance(self.damping, Tensor) and self.damping.ndim == 0
        known = learned or (isinstance(self.damping, str) and self.damping == "auto")
        if known:
            return
        damping = real_from(self.damping)
        if not 0 <= damping < 1e30:
            raise ValueError(
                'damping must be a finite number of at least 0, a tensor of one, or "auto";'
                f" got {self.damping!r}"
            )
        object.__setattr__(self, "damping", damping)

    @property
    def contracts(self) -> bool:  # type: ignore[override]
        return self.damping == "auto" or bool(self.damping > 0)

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        if isinstance(self.damping, nn.Parameter):
            return super().held() | {"damping": self.damping}
        return super().held()

    def with_damping(self, damping: float | Tensor) -> AntisymmetricField:
        """The same field with another γ."""
        return replace(self, damping=damping)

    def rate(self, y: Tensor, theta: Theta) -> Tensor:
        if isinstance(self.damping, str):
            raise ValueError(
                'damping="auto" depends on the step size; call propagate, or with_damping(number)'
            )
        weight, kernel = theta["weight"], self.kernel
        if kernel.linear:
            skew = kernel.apply(kernel.antisymmetric(weight), y)
        else:
            skew = 0.5 * (kernel.apply(weight, y) - kernel.adjoint(weight, y))
        if isinstance(self.damping, Tensor) or self.damping > 0:
            skew = skew - (0.5 * self.damping) * y
        return bent(self.kernel, self.activation, self.norm, skew, theta, "")

    def frequencies(self, controls: Theta) -> Tensor:
        """ω of each layer (layers,): the spectral radius of ½ (K − Kᵀ), times the largest slope of f; a norm
        counts as the identity.
        """
        return slope_of(self.activation) * self.kernel.skew_norms(controls["weight"])

    def spectrum(self, controls: Theta) -> Tensor | None:
        if self.norm is not None:
            return None
        omega = self.frequencies(controls)
        gamma = 0.0 if isinstance(self.damping, str) else self.damping
        real = torch.zeros_like(omega) - 0.5 * gamma * slope_of(self.activation)
        return torch.stack([torch.complex(real, omega), torch.complex(real, -omega)], dim=1)


@dataclass(frozen=True)
class SymmetricField(KernelField):
    """y' = −f(y K + u) Kᵀ: parabolic under Euler, the second-order network under Leapfrog (Ruthotto & Haber 2020).

    Controls: ``weight`` (N, n, k); ``bias`` (N, k), (N,) or absent.
    """

    contracts = True

    def rate(self, y: Tensor, theta: Theta) -> Tensor:
        weight = theta["weight"]
        return -self.kernel.adjoint(weight, self.bent(y, weight, theta))

    def potential(self, y: Tensor, theta: Theta) -> Tensor:
        """Φ(y) = Σ F(y K + u), F' = f, one number a sample; rate = −∇Φ."""
        x = self.kernel.apply(theta["weight"], y)
        return potential(self.kernel, self.activation, self.norm, x, theta, "")

    def spectrum(self, controls: Theta) -> Tensor | None:
        if self.norm is not None:
            return None
        stiffness = slope_of(self.activation) * self.kernel.norms(controls["weight"]).square()
        return -stiffness[:, None].to(torch.complex128)


def kernel_slots(kernel: Kernel, norm: Norm | None, suffix: str = "") -> dict[str, Slot]:
    """Weight, bias and (under a norm) scale of one kernel."""
    channels = (kernel.outputs,)
    slots = {
        f"weight{suffix}": Slot(kernel.weight_shape, kernel=kernel),
        f"bias{suffix}": Slot(channels, optional=True, or_scalar=True),
    }
    if norm is not None:
        slots[f"scale{suffix}"] = Slot(channels, fill=1.0)
    return slots


def slope_of(activation: ActivationChoice) -> float:
    """max |f'|."""
    return activation_from(activation).slope


def require_kernel(owner: object, kernel: object) -> None:
    """Raise ValueError unless a Kernel came."""
    if not isinstance(kernel, Kernel):
        raise ValueError(f"{type(owner).__name__} needs a Kernel, got {kernel!r}")


def require_norm(owner: object, norm: object) -> None:
    """Raise ValueError unless a Norm or None came."""
    if norm is not None and not isinstance(norm, Norm):
        raise ValueError(
            f"{type(owner).__name__} needs norm=kn.ChannelNorm(), kn.InstanceNorm() or None, got {norm!r}"
        )


def require_square(owner: object, kernel: Kernel) -> None:
    """Raise ValueError unless the kernel maps n channels to n channels."""
    if kernel.inputs != kernel.outputs:
        raise ValueError(
            f"{type(owner).__name__} needs a square kernel, got {kernel.inputs} → {kernel.outputs}"
            " channels; use SymmetricField or HamiltonianField for rectangular ones"
        )
