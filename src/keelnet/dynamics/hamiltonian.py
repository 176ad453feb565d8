"""Partitioned fields: two parts that drive each other, y' = rate_of_y(z) and z' = rate_of_z(y)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keelnet.dynamics.activations import ActivationChoice, activation_from
from keelnet.dynamics.bends import Bender, bent, potential
from keelnet.dynamics.fields import (
    Dynamics,
    Parts,
    Slot,
    Theta,
    kernel_slots,
    require_kernel,
    require_norm,
    require_square,
    slope_of,
)
from keelnet.dynamics.kernels import Kernel
from keelnet.dynamics.norms import Norm


class PartitionedField(Dynamics):
    """A field of two parts in which neither rate depends on the part that it moves.

    ``moves_y_first`` is the order of the published scheme in one layer of Verlet.
    """

    moves_y_first: bool = False

    def paired(self) -> PartitionedField:
        return self

    @abstractmethod
    def rate_of_y(self, z: Tensor, theta: Theta) -> Tensor:
        """y' as a function of z."""

    @abstractmethod
    def rate_of_z(self, y: Tensor, theta: Theta) -> Tensor:
        """z' as a function of y."""

    def rates(self, parts: Parts, theta: Theta) -> Parts:
        y, z = parts
        return self.rate_of_y(z, theta), self.rate_of_z(y, theta)


class SeparableHamiltonian(Bender, PartitionedField):
    """What the fields of an energy H(y, z) = U(y) + T(z) share: the channel counts of their parts, the split, the energy."""

    @property
    @abstractmethod
    def widths(self) -> tuple[int, int]:
        """Channels of y and of z."""

    @property
    @abstractmethod
    def reader(self) -> Kernel:
        """The kernel that reads y."""

    @abstractmethod
    def energy(self, y: Tensor, z: Tensor, theta: Theta) -> Tensor:
        """H(y, z), one number a sample."""

    @abstractmethod
    def frequencies(self, controls: Theta) -> Tensor:
        """An upper bound of the angular frequency of the linearised oscillation, (layers,); a norm counts as the identity."""

    @property
    def channel_axis(self) -> int:
        return self.reader.channel_axis

    def is_split(self, y0: Tensor) -> bool:
        axis = self.channel_axis
        return -y0.ndim <= axis < y0.ndim and y0.shape[axis] == sum(self.widths)

    def parts(self, y0: Tensor) -> Parts:
        if self.is_split(y0):
            self.reader.check_state(y0, sum(self.widths))
            y, z = torch.split(y0, list(self.widths), dim=self.channel_axis)
            return y, z
        try:
            self.reader.check_state(y0, self.widths[0])
        except ValueError as error:
            raise ValueError(
                f"{error}, or {sum(self.widths)} channels for y and z together"
            ) from None
        # One zero, seen as many: no memory until the first layer writes z.
        shape = list(y0.shape)
        shape[self.channel_axis] = self.widths[1]
        return y0, y0.new_zeros(()).expand(shape)

    def spectrum(self, controls: Theta) -> Tensor | None:
        if self.norm is not None:
            return None
        omega = self.frequencies(controls)
        still = torch.zeros_like(omega)
        return torch.stack([torch.complex(still, omega), torch.complex(still, -omega)], dim=1)


@dataclass(frozen=True)
class HamiltonianField(SeparableHamiltonian):
    """One kernel: z' = −f(y K + u), y' = f(z Kᵀ + u) (Haber & Ruthotto 2018, eq. 4.13; the source paper).

    y has the kernel's input channels n, z its output channels k. Controls: ``weight`` (N, n, k);
    ``bias`` absent, (N,), or (N, n) if n = k: one bias, both halves. With K and u constant the
    energy Σ F(y K + u) + Σ F(z Kᵀ + u), F' = f, is conserved; Verlet is stable while
    h σ_max(K) ≤ 2.
    """

    kernel: Kernel
    activation: ActivationChoice = "tanh"
    norm: Norm | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_kernel(self, self.kernel)
        require_norm(self, self.norm)
        object.__setattr__(self, "activation", activation_from(self.activation))
        if self.norm is not None:
            require_square(self, self.kernel)

    @property
    def widths(self) -> tuple[int, int]:
        return self.kernel.inputs, self.kernel.outputs

    @property
    def reader(self) -> Kernel:
        return self.kernel

    def theta_shapes(self) -> dict[str, Slot]:
        slots = kernel_slots(self.kernel, self.norm)
        if self.kernel.inputs != self.kernel.outputs:
            slots["bias"] = Slot((), optional=True)
        return slots

    def rate_of_y(self, z: Tensor, theta: Theta) -> Tensor:
        return self._bent(self.kernel.adjoint(theta["weight"], z), theta)

    def rate_of_z(self, y: Tensor, theta: Theta) -> Tensor:
        return -self._bent(self.kernel.apply(theta["weight"], y), theta)

    def _bent(self, x: Tensor, theta: Theta) -> Tensor:
        return bent(self.kernel, self.activation, self.norm, x, theta, "")

    def energy(self, y: Tensor, z: Tensor, theta: Theta) -> Tensor:
        shared = (self.kernel, self.activation, self.norm)
        of_y = potential(*shared, self.kernel.apply(theta["weight"], y), theta, "")
        return of_y + potential(*shared, self.kernel.adjoint(theta["weight"], z), theta, "")

    def frequencies(self, controls: Theta) -> Tensor:
        return slope_of(self.activation) * self.kernel.norms(controls["weight"])


@dataclass(frozen=True)
class DoubleHamiltonianField(SeparableHamiltonian):
    """Two kernels: y' = f(z K₁ + u₁) K₁ᵀ, z' = −f(y K₂ + u₂) K₂ᵀ (Chang et al. 2018).

    y and z have the same channels n; K₁ (``kernel_y``, it drives y) and K₂ (``kernel_z``) may be
    rectangular. Controls: ``weight_1``, ``weight_2`` (N, n, k); ``bias_1``, ``bias_2`` (N, k),
    (N,) or absent. Energy Σ F(z K₁ + u₁) + Σ F(y K₂ + u₂); Verlet is stable while
    h ‖K₁‖ ‖K₂‖ ≤ 2.
    """

    kernel_y: Kernel
    kernel_z: Kernel
    activation: ActivationChoice = "tanh"
    norm: Norm | None = field(default=None, kw_only=True)

    moves_y_first = True

    def __post_init__(self) -> None:
        require_kernel(self, self.kernel_y)
        require_kernel(self, self.kernel_z)
        require_norm(self, self.norm)
        object.__setattr__(self, "activation", activation_from(self.activation))
        same_space = self.kernel_y.channel_axis == self.kernel_z.channel_axis
        if self.kernel_y.inputs != self.kernel_z.inputs or not same_space:
            raise ValueError(
                "DoubleHamiltonianField needs two kernels of one kind with equal input channels,"
                f" got {self.kernel_y} and {self.kernel_z}"
            )

    @property
    def widths(self) -> tuple[int, int]:
        return self.kernel_z.inputs, self.kernel_y.inputs

    @property
    def reader(self) -> Kernel:
        return self.kernel_z

    def theta_shapes(self) -> dict[str, Slot]:
        first = kernel_slots(self.kernel_y, self.norm, "_1")
        return first | kernel_slots(self.kernel_z, self.norm, "_2")

    def rate_of_y(self, z: Tensor, theta: Theta) -> Tensor:
        return self._gradient(self.kernel_y, z, theta, "_1")

    def rate_of_z(self, y: Tensor, theta: Theta) -> Tensor:
        return -self._gradient(self.kernel_z, y, theta, "_2")

    def _gradient(self, kernel: Kernel, x: Tensor, theta: Theta, suffix: str) -> Tensor:
        """f(x K + u) Kᵀ."""
        weight = theta[f"weight{suffix}"]
        inner = kernel.apply(weight, x)
        return kernel.adjoint(
            weight, bent(kernel, self.activation, self.norm, inner, theta, suffix)
        )

    def energy(self, y: Tensor, z: Tensor, theta: Theta) -> Tensor:
        shared = (self.activation, self.norm)
        of_z = self.kernel_y.apply(theta["weight_1"], z)
        of_y = self.kernel_z.apply(theta["weight_2"], y)
        return potential(self.kernel_y, *shared, of_z, theta, "_1") + potential(
            self.kernel_z, *shared, of_y, theta, "_2"
        )

    def frequencies(self, controls: Theta) -> Tensor:
        first = self.kernel_y.norms(controls["weight_1"])
        return slope_of(self.activation) * first * self.kernel_z.norms(controls["weight_2"])
