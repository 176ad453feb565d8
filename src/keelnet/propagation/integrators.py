"""Integrators: how one layer follows from the last. The formula is the docstring."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.dynamics.fields import Dynamics, Parts, Theta
from keelnet.dynamics.holders import Holder

State = tuple[Tensor, ...]
Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


class StabilityWarning(UserWarning):
    """A step size or a damping for which the features must be expected to grow."""


class Integrator(Holder):
    """A method for y' = f(y, θ(t)): the state before the loop, one layer, the parts after it.

    A state is a tuple of tensors whose first entry is y at the layer's time. ``time_order`` 2 is a method for
    y'' = f(y, θ(t)): λ is an eigenvalue of ∂f/∂y all the same, and R a function of h² λ in the place of h λ.
    """

    time_order: ClassVar[Literal[1, 2]] = 1

    def adapted(self, field: Dynamics) -> Dynamics:
        """The face of the field that this method moves; raises ValueError where it has none."""
        return field

    def begin(self, parts: Parts) -> State:
        """The state at layer 0."""
        return parts

    @abstractmethod
    def step(self, field: Dynamics, state: State, theta: Theta, h: float, layer: int) -> State:
        """The state after layer ``layer``, 0 being the first."""

    def finish(self, state: State) -> Parts:
        """The parts of the field at t = T."""
        return state

    @abstractmethod
    def amplification(self, h: float, eigenvalues: Complex) -> Real:
        """|R(h λ)|: the growth of y' = λ y in one layer, the largest root for multistep methods."""

    @abstractmethod
    def largest_steps(self, eigenvalues: Complex) -> Real:
        """For each λ the largest h up to which |R(h λ)| ≤ 1: 0 if there is none, inf if it is every h."""

    def least_damping(self, h: float, omega: Tensor) -> Tensor:
        """The least γ for which the eigenvalues −γ/2 ± iω do not grow; ω (layers,)."""
        grows = self.amplification(h, 1j * numbers(omega)).max() if readable(omega) else 0.0
        if grows > 1 + 1e-9:
            warnings.warn(
                f"no damping was found that keeps {self} stable at step size {h:g}: it grows"
                f" {grows:.4g} times a layer on h ω = {h * float(omega.detach().max()):.4g};"
                " raise depth at the same final time",
                StabilityWarning,
                stacklevel=2,
            )
        return omega.new_zeros(())

    def reversal_obstacle(self, field: Dynamics) -> str | None:
        """Why a layer cannot be undone from its result; None if it can."""
        return f"{self} is not a sequence of shears, so a layer cannot be undone from its result"


@dataclass(frozen=True)
class Euler(Integrator):
    """y ← y + h f(y, θ): explicit Euler, the residual network."""

    def step(self, field: Dynamics, state: State, theta: Theta, h: float, layer: int) -> State:
        return moved(state, h, field.rates(state, theta))

    def amplification(self, h: float, eigenvalues: Complex) -> Real:
        return np.abs(1 + h * eigenvalues)

    def largest_steps(self, eigenvalues: Complex) -> Real:
        return euler_steps(eigenvalues)

    def least_damping(self, h: float, omega: Tensor) -> Tensor:
        """γ (1 − h γ / 4) = h ω²; where h ω > 1 no γ holds, and γ = 2 / h grows the least."""
        largest = omega.max()
        room = 1 - (h * largest).square()
        if readable(room) and room < 0:
            warnings.warn(
                f"no damping keeps explicit Euler stable at step size {h:g}: it needs h ≤ 1 / ω ="
                f" {1 / float(largest.detach()):.4g}; raise depth at the same final time",
                StabilityWarning,
                stacklevel=2,
            )
        # 2 (1 − √room) / h without the cancellation at small h ω.
        least = 2 * h * largest.square() / (1 + room.clamp(min=1e-30).sqrt())
        return torch.where(room < 0, torch.full_like(least, 2 / h), least)


@dataclass(frozen=True)
class RK4(Integrator):
    """The classical fourth-order Runge–Kutta method, θ frozen over the step.

    k₁ = f(y), k₂ = f(y + ½ h k₁), k₃ = f(y + ½ h k₂), k₄ = f(y + h k₃);
    y ← y + h/6 (k₁ + 2 k₂ + 2 k₃ + k₄).
    """

    def step(self, field: Dynamics, state: State, theta: Theta, h: float, layer: int) -> State:
        first = field.rates(state, theta)
        second = field.rates(moved(state, h / 2, first), theta)
        third = field.rates(moved(state, h / 2, second), theta)
        fourth = field.rates(moved(state, h, third), theta)
        slopes = zip(first, second, third, fourth, strict=True)
        return moved(state, h / 6, tuple(a + 2 * b + 2 * c + d for a, b, c, d in slopes))

    def amplification(self, h: float, eigenvalues: Complex) -> Real:
        x = h * eigenvalues
        return np.abs(1 + x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4))))

    def largest_steps(self, eigenvalues: Complex) -> Real:
        """By bisection: no closed form off the axes (2 √2 / ω on the imaginary one)."""
        size = np.abs(eigenvalues)
        direction = eigenvalues / np.where(size > 0, size, 1)
        low = np.zeros(size.shape)
        inside = size > 0
        width = 1 / 64
        for steps in range(1, 224):  # the region lies within a radius of 3.5
            inside = inside & self._holds(steps * width * direction)
            low = np.where(inside, steps * width, low)
        high = np.where(low > 0, low + width, 0)
        for _ in range(50):
            middle = (low + high) / 2
            inside = self._holds(middle * direction)
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        return np.divide(low, size, out=np.full(size.shape, np.inf), where=size > 0)

    def _holds(self, x: Complex) -> NDArray[np.bool_]:
        return self.amplification(1.0, x) <= 1 + 1e-13


def readable(values: Tensor) -> bool:
    """Whether numbers may be looked at: torch.func.vmap has many in the place of one, torch.export has none."""
    if torch.compiler.is_exporting():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(values):
        if functorch.is_batchedtensor(values):
            return False
        values = functorch.get_unwrapped(values)
    return True


def numbers(values: Tensor) -> Complex:
    """In NumPy, also under torch.func, whose tensors have no storage to share."""
    return np.array(values.detach().tolist(), dtype=complex)


def euler_steps(eigenvalues: Complex) -> Real:
    """−2 Re λ / |λ|²: the largest h with |1 + h λ| ≤ 1."""
    squares = np.abs(eigenvalues) ** 2
    room = np.maximum(-2 * eigenvalues.real, 0)
    return np.divide(room, squares, out=np.full(squares.shape, np.inf), where=squares > 0)


def moved(state: State, scale: float, rates: Parts) -> State:
    """state + scale · rates, part by part."""
    return tuple(x.add(rate, alpha=scale) for x, rate in zip(state, rates, strict=True))
