"""IMEX: explicit in the nonlinear field, implicit in a linear diffusion L (Haber et al. 2019, IMEXnet)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real as Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from keelnet.dynamics.activations import activation_from
from keelnet.dynamics.fields import AntisymmetricField, Dynamics, Field, SymmetricField, Theta
from keelnet.dynamics.holders import Holder
from keelnet.propagation.integrators import Complex, Euler, Integrator, Real, State, euler_steps


class Diffusion(Holder):
    """A symmetric positive semidefinite L that can solve (I + h L) x = y."""

    def require_axis(self, field: Dynamics) -> None:
        """Raise ValueError where the field's channels do not lie where L takes them to be; most take any."""

    @abstractmethod
    def solve(self, y: Tensor, h: float) -> Tensor:
        """(I + h L)⁻¹ y."""

    @abstractmethod
    def apply(self, y: Tensor) -> Tensor:
        """L y."""


@dataclass(frozen=True, eq=False)
class DenseDiffusion(Diffusion):
    """L = matrix (n, n) on channels in the last axis, y ↦ y @ matrix; solved by Cholesky.

    An nn.Parameter is trained, saved and moved with the Block; its gradient is symmetric, as L is to stay. Raises
    ValueError unless the matrix is square, symmetric and positive semidefinite, and where it is on another device
    than the state.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"DenseDiffusion needs a square matrix, got {tuple(matrix.shape)}")
        scale = float(matrix.detach().abs().max())
        tolerance = 100 * torch.finfo(matrix.dtype).eps * max(scale, 1e-300)
        if not torch.allclose(matrix, matrix.T, rtol=0, atol=tolerance):
            raise ValueError("DenseDiffusion needs a symmetric matrix; use ½ (L + Lᵀ)")
        lowest = float(torch.linalg.eigvalsh(matrix.detach().double()).min())
        if not lowest >= -len(matrix) * tolerance:
            raise ValueError(
                "DenseDiffusion needs a positive semidefinite matrix, but its lowest eigenvalue is"
                f" {lowest:.3g}; pass A @ A.T"
            )

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        return {"diffusion": self.matrix} if isinstance(self.matrix, nn.Parameter) else {}

    def require_axis(self, field: Dynamics) -> None:
        kernel = getattr(
            field, "kernel", None
        )  # of a module it is not known how many axes its state has
        channels = kernel is not None and kernel.inputs == len(self.matrix)
        if channels and field.channel_axis != -1:  # else it is a matrix for points
            raise ValueError(
                "DenseDiffusion acts on channels in the last axis, but those of"
                f" {type(kernel).__name__} lie on axis {field.channel_axis}; use LaplacianDiffusion"
            )

    def solve(self, y: Tensor, h: float) -> Tensor:
        if y.ndim < 1 or y.shape[-1] != len(self.matrix):
            raise ValueError(
                f"DenseDiffusion of {len(self.matrix)} channels acts on the last axis of the state,"
                f" got {tuple(y.shape)}; use LaplacianDiffusion for convolutions"
            )
        if y.device != self.matrix.device:
            raise ValueError(
                f"the matrix of DenseDiffusion is on {self.matrix.device}, the state on {y.device}; move one of them,"
                " or give the matrix as an nn.Parameter, which moves with its Block"
            )
        precise = torch.float64 in (y.dtype, self.matrix.dtype)
        wide = self.matrix.double() if precise else self.matrix.float()
        identity = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
        try:
            factor = torch.linalg.cholesky(identity + h * wide)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise ValueError(
                f"I + h L has no Cholesky factor at h = {h:g}: the matrix of DenseDiffusion is no longer positive"
                " semidefinite (learned?); use a smaller learning rate, or learn A and propagate with A @ A.T"
            ) from error
        rows = y.reshape(-1, y.shape[-1]).to(wide.dtype)
        return torch.cholesky_solve(rows.T, factor).T.reshape(y.shape).to(y.dtype)

    def apply(self, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y.dtype)


@dataclass(frozen=True)
class LaplacianDiffusion(Diffusion):
    """L = −strength · Δ on the space axes, the (2 dim + 1)-point stencil, periodic; solved by FFT.

    The symbol is strength · Σ 4 sin²(k / 2) over the axes. A strength that is an nn.Parameter is trained, saved and
    moved with the Block; it is taken as it is, so keep it at least 0. Raises ValueError for one that is no finite
    number of at least 0, nor a tensor of one.
    """

    strength: float | Tensor = 1.0

    def __post_init__(self) -> None:
        strength: Any = self.strength
        learned = isinstance(strength, Tensor) and strength.numel() == 1 and not strength.is_complex()  # fmt: skip
        if not (learned or isinstance(strength, Number)) or not 0 <= strength < math.inf:
            raise ValueError(
                f"strength must be a finite number of at least 0, or a tensor of one; got {strength!r}"
            )

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        return {"diffusion": self.strength} if isinstance(self.strength, nn.Parameter) else {}

    def require_axis(self, field: Dynamics) -> None:
        if field.channel_axis in (0, -1):  # one counted from the end may be 1
            raise ValueError(
                "LaplacianDiffusion diffuses along the axes after (batch, channels), but the channels of"
                f" {type(field).__name__} lie on axis {field.channel_axis}; use DenseDiffusion"
            )

    def solve(self, y: Tensor, h: float) -> Tensor:
        return self._filtered(y, lambda symbol: 1 / (1 + h * symbol))

    def apply(self, y: Tensor) -> Tensor:
        return self._filtered(y, lambda symbol: symbol)

    def _filtered(self, y: Tensor, response: object) -> Tensor:
        axes = tuple(range(2, y.ndim))
        if not axes:
            raise ValueError(
                f"LaplacianDiffusion needs space axes (batch, channels, *space), got {tuple(y.shape)};"
                " use DenseDiffusion"
            )
        if y.numel() == 0:  # an FFT library may refuse to transform nothing
            return y
        wide = y if y.dtype == torch.float64 else y.float()
        assert callable(response)
        spectrum = torch.fft.rfftn(wide, dim=axes) * response(self._symbol(wide, axes))
        return torch.fft.irfftn(spectrum, s=y.shape[2:], dim=axes).to(y.dtype)

    def _symbol(self, y: Tensor, axes: tuple[int, ...]) -> Tensor:
        total = torch.zeros((), dtype=y.dtype, device=y.device)
        for axis in axes:
            count = y.shape[axis]
            last = axis == axes[-1]
            modes = torch.arange(count // 2 + 1 if last else count, dtype=y.dtype, device=y.device)
            line = 4 * torch.sin(math.pi * modes / count).square()
            total = total + line.reshape(-1, *(1,) * (axes[-1] - axis))
        given = self.strength  # of any shape, where it is a tensor of one number
        return (given.reshape(()) if isinstance(given, Tensor) else given) * total


@dataclass(frozen=True)
class IMEX(Integrator):
    """(I + h L) y₊ = y + h f(y, θ), for y' = f(y, θ) − L y.

    L (a Diffusion) is taken implicitly, so its size puts no bound on h. Of an eigenvalue λ of ∂f/∂y are known
    ``amplification`` and ``largest_steps`` of the explicit half alone, which bound those of a layer where it `suffices`.
    """

    diffusion: Diffusion

    def __post_init__(self) -> None:
        if not isinstance(self.diffusion, Diffusion):
            raise ValueError(
                "IMEX needs a LaplacianDiffusion (FFT) or a DenseDiffusion (Cholesky),"
                f" got {self.diffusion!r}"
            )

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        return self.diffusion.held()

    def holding(self, parts: Mapping[str, object]) -> IMEX:  # type: ignore[override]
        return replace(self, diffusion=self.diffusion.holding(parts))

    def adapted(self, field: Dynamics) -> Dynamics:
        if not isinstance(field, Field):
            raise ValueError(f"IMEX moves a field of one part, got {type(field).__name__}")
        self.diffusion.require_axis(field)
        return field

    def step(self, field: Dynamics, state: State, theta: Theta, h: float, layer: int) -> State:
        (y,) = state
        (rate,) = field.rates(state, theta)
        return (self.diffusion.solve(y.add(rate, alpha=h), h),)

    def suffices(self, field: Dynamics) -> bool:
        """Whether no layer grows where the explicit half does not; a layer may not grow where it does, since L damps.

        The implicit half shrinks every vector, the explicit one by |1 + h λ| where ∂f/∂y is normal: −K diag(f') Kᵀ, and
        ½ f' (K − Kᵀ − γ I) of one f'. Others may turn what L leaves into what grows, though each half alone decays (Turing 1952).
        """
        if not isinstance(field, (SymmetricField, AntisymmetricField)) or field.norm is not None:
            return False
        activation = activation_from(field.activation)
        alike = isinstance(field, SymmetricField) or activation.name == "identity"
        return alike and activation.rising

    def amplification(self, h: float, eigenvalues: Complex) -> Real:
        """That of the explicit half."""
        return np.abs(1 + h * eigenvalues)

    def largest_steps(self, eigenvalues: Complex) -> Real:
        """Those of the explicit half."""
        return euler_steps(eigenvalues)

    def least_damping(self, h: float, omega: Tensor) -> Tensor:
        """That of the explicit half, Euler's; the implicit one shrinks every vector."""
        return Euler().least_damping(h, omega)
