"""Solvers: conjugate gradients, how exactly to solve, and how far to go along a direction."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from keelnet.dynamics.kernels import require_count
from keelnet.learning.methods import require_positive, require_share

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """x with A x ≈ b: how many products it took, the relative residual, and whether A was singular.

    residual: ‖b − A x‖ / ‖b‖ in the norm of the preconditioner. singular: a direction without
    curvature was met (⟨p, A p⟩ ≤ rounding); x is what was reached before it.
    """

    x: Tensor
    iterations: int
    residual: float
    singular: bool


def conjugate_gradients(
    product: Linear, b: Tensor, precondition: Linear, tolerance: float, iterations: int
) -> Solution:
    """Preconditioned conjugate gradients for a symmetric positive A, from x = 0 (Hestenes & Stiefel 1952).

    ``product`` is v ↦ A v, ``precondition`` r ↦ P r with P symmetric and positive, near A⁻¹. It ends at a
    relative residual of ``tolerance`` or after ``iterations`` products. Tensors of any shape, on any device.
    """
    x, r = torch.zeros_like(b), b.clone()
    z = precondition(r)
    p, rz = z, _dot(r, z)
    first, done = rz, 0
    while done < iterations and rz > first * tolerance**2 and first > 0:
        ap = product(p)
        done += 1
        curvature, size = _dot(p, ap), _dot(p, p)
        if not curvature > size * torch.finfo(b.dtype).tiny:
            return Solution(x, done, math.sqrt(max(rz / first, 0.0)), singular=True)
        step = rz / curvature
        x = x + step * p
        r = r - step * ap
        z = precondition(r)
        rz, before = _dot(r, z), rz
        p = z + (rz / before) * p
    residual = math.sqrt(max(rz / first, 0.0)) if first > 0 else 0.0
    return Solution(x, done, residual, singular=False)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.vdot(a.flatten(), b.flatten()))


class Forcing(ABC):
    """How exactly the Newton system is solved: the relative residual to stop at."""

    @abstractmethod
    def tolerance(self, ratio: float | None, before: float | None) -> float:
        """From ‖g_k‖ / ‖g_{k−1}‖ and the tolerance of the last step; both None at the first."""


@dataclass(frozen=True)
class Fixed(Forcing):
    """The same tolerance at every step; raises ValueError for one outside [0, 1)."""

    value: float = 0.1

    def __post_init__(self) -> None:
        require_share("value", self.value, 1)

    def tolerance(self, ratio: float | None, before: float | None) -> float:
        return self.value


@dataclass(frozen=True)
class EisenstatWalker(Forcing):
    """factor · (‖g_k‖ / ‖g_{k−1}‖)^power, kept from falling at once (Eisenstat & Walker 1996, choice 2).

    The tolerance lies between ``least`` and ``most``, the first one: no work is spent on exact
    solutions far from the minimum, and convergence near it is superlinear. Raises ValueError for a most, least or
    factor outside [0, 1) and a power outside (1, 2].
    """

    most: float = 0.5
    least: float = 1e-3
    factor: float = 0.9
    power: float = 2.0

    def __post_init__(self) -> None:
        require_share("most", self.most, 1)
        require_share("least", self.least, 1)
        require_share("factor", self.factor, 1)
        if not 1 < self.power <= 2:
            raise ValueError(f"power must lie above 1 and be at most 2, got {self.power!r}")

    def tolerance(self, ratio: float | None, before: float | None) -> float:
        if ratio is None or before is None:
            return self.most
        wanted = self.factor * ratio**self.power
        kept = self.factor * before**self.power
        if kept > 0.1:
            wanted = max(wanted, kept)
        return min(self.most, max(self.least, wanted))


@dataclass(frozen=True)
class Armijo:
    """Backtracking: the first t = 1, shrink, shrink², … with φ(t) ≤ φ(0) + slope · t · φ'(0).

    halvings: how many shorter steps are tried after t = 1. Raises ValueError for a slope outside (0, ½), a shrink
    outside (0, 1) and no halvings.
    """

    slope: float = 1e-4
    shrink: float = 0.5
    halvings: int = 10

    def __post_init__(self) -> None:
        require_positive("slope", self.slope)
        require_share("slope", self.slope, 0.5)
        require_positive("shrink", self.shrink)
        require_share("shrink", self.shrink, 1)
        require_count("halvings", self.halvings)

    def length(self, value: float, derivative: float, trial: Callable[[float], float]) -> float:
        """The step that decreases enough; 0 where none does. ``trial`` is t ↦ φ(t), not finite for no value."""
        t = 1.0
        for _ in range(self.halvings + 1):
            if trial(t) <= value + self.slope * t * derivative:
                return t
            t *= self.shrink
        return 0.0
