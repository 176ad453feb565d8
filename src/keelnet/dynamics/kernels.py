"""Kernels: the linear maps K inside a layer. The numbers (weights) are passed in, never owned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from keelnet.dynamics.singular import exactly, largest_singular, singular_bound


class Kernel(ABC):
    """A linear map from ``inputs`` channels to ``outputs`` channels, and its exact adjoint.

    ``apply(weight, y)`` is K y and ``adjoint(weight, z)`` is Kᵀ z, so that
    ⟨K y, x⟩ = ⟨y, Kᵀ x⟩ holds to rounding for every weight.
    """

    channel_axis: ClassVar[int]
    # Whether ½ (K − Kᵀ) is the map of a weight, ½ (w − wᵀ): where K is linear in it.
    linear: ClassVar[bool] = False

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Channels that ``apply`` reads."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Channels that ``apply`` writes."""

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of one layer's weight."""

    @abstractmethod
    def apply(self, weight: Tensor, y: Tensor) -> Tensor:
        """K y."""

    @abstractmethod
    def adjoint(self, weight: Tensor, z: Tensor) -> Tensor:
        """Kᵀ z."""

    def transposed(self, weight: Tensor) -> Tensor:
        """The weight whose ``apply`` is Kᵀ, where there is one; square kernels only. Leading axes are layers."""
        raise NotImplementedError(
            f"{type(self).__name__} says that it is linear in its weight, so that ½ (K − Kᵀ) is the map of a weight:"
            " write transposed, or leave out linear = True"
        )

    @abstractmethod
    def per_channel(self, values: Tensor) -> Tensor:
        """One number a channel (or a scalar), shaped to broadcast against the state."""

    @abstractmethod
    def symbol(self, weights: Tensor) -> tuple[Tensor, float]:
        """Matrices (..., inputs, outputs) whose largest norm, times the factor, bounds ‖K‖ from above."""

    @abstractmethod
    def check_state(self, y: Tensor, channels: int) -> None:
        """Raise ValueError unless y is a state with that many channels."""

    @property
    def fan_in(self) -> int:
        """Numbers that one output reads: what a random weight is scaled by."""
        return math.prod(self.weight_shape) // self.outputs

    def skew_norms(self, weights: Float[Tensor, "layers *weight"]) -> Float[Tensor, " layers"]:
        """An upper bound of the spectral norm of ½ (K − Kᵀ), by layer."""
        with exactly(weights.device):
            if self.linear:
                return self.norms(self.antisymmetric(weights))
            matrices, factor = self.symbol(weights)
            return self._largest(0.5 * (matrices - matrices.mH), factor, weights)

    def norms(self, weights: Float[Tensor, "layers *weight"]) -> Float[Tensor, " layers"]:
        """An upper bound of the spectral norm of each layer: exact for dense, within 10 % for conv."""
        with exactly(weights.device):
            return self._largest(*self.symbol(weights), weights)

    def _largest(self, matrices: Tensor, factor: float, weights: Tensor) -> Tensor:
        largest = self.largest_singular(matrices)
        return factor * largest.reshape(weights.shape[0], -1).amax(dim=1).to(_real(weights.dtype))

    def largest_singular(self, matrices: Tensor) -> Tensor:
        """The largest singular value of each matrix, or an upper bound of it."""
        return largest_singular(matrices)

    def antisymmetric(self, weight: Tensor) -> Tensor:
        """½ (K − Kᵀ) as a weight."""
        return 0.5 * (weight - self.transposed(weight))


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _wide(weights: Tensor) -> Tensor:
    """Linear algebra knows no half precision."""
    return weights.to(_real(weights.dtype))


def require_count(name: str, value: object) -> None:
    """Raise ValueError unless value is an int ≥ 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def real_from(value: object) -> float:
    """A number of any real type as a float; NaN for what is none, inf for one that is too large."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a fraction of large integers
        return math.inf


@dataclass(frozen=True)
class DenseKernel(Kernel):
    """A full matrix on rows: ``y @ weight`` with weight (n, k) and y (..., n).

    A matrix printed for columns in the literature (K y) is the transpose of this weight.
    """

    n: int
    k: int | None = None

    channel_axis: ClassVar[int] = -1
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_count("DenseKernel n", self.n)
        if self.k is not None:
            require_count("DenseKernel k", self.k)

    @property
    def inputs(self) -> int:
        return self.n

    @property
    def outputs(self) -> int:
        return self.n if self.k is None else self.k

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.inputs, self.outputs)

    def apply(
        self, weight: Float[Tensor, "n k"], y: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch k"]:
        return y @ weight

    def adjoint(
        self, weight: Float[Tensor, "n k"], z: Float[Tensor, "*batch k"]
    ) -> Float[Tensor, "*batch n"]:
        return z @ weight.T

    def transposed(self, weight: Tensor) -> Tensor:
        return weight.transpose(-1, -2)

    def per_channel(self, values: Tensor) -> Tensor:
        return values

    def symbol(self, weights: Tensor) -> tuple[Tensor, float]:
        return _wide(weights), 1.0

    def check_state(self, y: Tensor, channels: int) -> None:
        if y.ndim < 1 or y.shape[-1] != channels:
            raise ValueError(
                f"a dense state must be (batch, {channels}), features in rows; got {tuple(y.shape)}"
            )


_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@dataclass(frozen=True)
class ConvKernel(Kernel):
    """A convolution in 1, 2 or 3 dimensions with zero padding that keeps the size ("same").

    Weight (out, in, *stencil) as in PyTorch; ``groups`` > 1 gives grouped or, with
    groups = channels, depthwise kernels (weight (out, in / groups, *stencil)). The adjoint is the
    transposed convolution with the same weight and padding.
    """

    channels: int
    dim: int = 3
    stencil: int | tuple[int, ...] = 3
    out_channels: int | None = None
    groups: int = 1

    channel_axis: ClassVar[int] = 1
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_count("ConvKernel channels", self.channels)
        require_count("ConvKernel groups", self.groups)
        if self.out_channels is not None:
            require_count("ConvKernel out_channels", self.out_channels)
        if self.dim not in tuple(_CONV):
            raise ValueError(f"ConvKernel dim must be 1, 2 or 3, got {self.dim!r}")
        if not isinstance(self.stencil, (int, tuple)) or len(self.stencils) != self.dim:
            raise ValueError(
                f"stencil must be an integer or a tuple of {self.dim}, got {self.stencil!r}"
            )
        for size in self.stencils:
            require_count("stencil", size)
            if size % 2 == 0:
                raise ValueError(
                    f"stencil must be odd, so that the output keeps the input's size; got {self.stencil!r}"
                )
        if self.channels % self.groups or self.outputs % self.groups:
            raise ValueError(
                f"groups must divide both channel counts, got {self.groups} groups for"
                f" {self.channels} and {self.outputs} channels"
            )

    @property
    def stencils(self) -> tuple[int, ...]:
        """One size an axis."""
        return (self.stencil,) * self.dim if isinstance(self.stencil, int) else self.stencil

    @property
    def inputs(self) -> int:
        return self.channels

    @property
    def outputs(self) -> int:
        return self.channels if self.out_channels is None else self.out_channels

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.outputs, self.channels // self.groups, *self.stencils)

    @property
    def padding(self) -> tuple[int, ...]:
        return tuple(size // 2 for size in self.stencils)

    def apply(
        self, weight: Float[Tensor, "out in *stencil"], y: Float[Tensor, "batch n *space"]
    ) -> Float[Tensor, "batch out *space"]:
        return _CONV[self.dim](y, weight, padding=self.padding, groups=self.groups)

    def adjoint(
        self, weight: Float[Tensor, "out in *stencil"], z: Float[Tensor, "batch out *space"]
    ) -> Float[Tensor, "batch n *space"]:
        return _CONV_TRANSPOSE[self.dim](z, weight, padding=self.padding, groups=self.groups)

    def transposed(self, weight: Tensor) -> Tensor:
        """Channels swapped within each group, stencil flipped."""
        layers = weight.shape[: weight.ndim - self.dim - 2]
        grouped = weight.reshape(*layers, self.groups, -1, *self.weight_shape[1:])
        channel = len(layers) + 1
        swapped = grouped.transpose(channel, channel + 1).flip(tuple(range(-self.dim, 0)))
        return swapped.reshape(weight.shape)

    def per_channel(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *(1,) * self.dim) if values.ndim else values

    def symbol(self, weights: Tensor) -> tuple[Tensor, float]:
        """The Fourier symbol on a grid of frequencies, the stencil's middle at the origin.

        Zero padding compresses the convolution on the whole lattice, so ‖K‖ is at most the
        symbol's maximum, a trigonometric polynomial of degree (stencil − 1) / 2; on a grid of M
        points its maximum is at most 1 / cos(π degree / M) times the largest value seen.
        """
        points = [max(1, 16 * (size // 2)) for size in self.stencils]
        axes = tuple(range(-self.dim, 0))
        values = torch.fft.rfftn(_wide(weights), s=points, dim=axes)  # the other half is conjugate
        for axis, radius, count in zip(axes, self.padding, points, strict=True):
            # Without it each matrix is turned by e^(−i k radius): norms do not mind, eigenvalues do.
            turns = torch.arange(values.shape[axis]).to(values.real) * (
                2 * math.pi * radius / count
            )
            phase = torch.polar(torch.ones_like(turns), turns)
            values = values * phase.reshape(-1, *(1,) * (-1 - axis))
        values = values.flatten(-self.dim).movedim(-1, -3)  # (layers, frequency, out, in / groups)
        grouped = values.unflatten(-2, (self.groups, -1))
        factor = math.prod(
            1 / math.cos(math.pi * (size // 2) / count)
            for size, count in zip(self.stencils, points, strict=True)
        )
        return grouped.movedim(-3, 1).transpose(-1, -2), factor

    def largest_singular(self, matrices: Tensor) -> Tensor:
        """At most 4 % too large for 100 channels: exact ones at every frequency of every layer took seconds."""
        return singular_bound(matrices)

    def check_state(self, y: Tensor, channels: int) -> None:
        if y.ndim != self.dim + 2 or y.shape[1] != channels:
            space = ", ".join(["depth", "height", "width"][3 - self.dim :])
            raise ValueError(
                f"a {self.dim}-D convolution needs a state (batch, {channels}, {space});"
                f" got {tuple(y.shape)}"
            )
