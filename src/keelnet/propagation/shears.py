"""Reversible integrators: each layer is a sequence of shears, from which forward, undo and pull-back follow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from keelnet.dynamics.fields import Dynamics, Field, Parts, Theta
from keelnet.dynamics.hamiltonian import PartitionedField
from keelnet.propagation.integrators import Complex, Integrator, Real, State


class Shear(NamedTuple):
    """state[moved] += scale · rate(state[1 − moved], θ); ``rate`` None moves by the other part itself.

    The moved part does not enter the rate, so the shear has determinant 1 and is undone by the
    same rate with the other sign.
    """

    moved: int
    scale: float
    rate: Callable[[Tensor, Theta], Tensor] | None


class ShearIntegrator(Integrator):
    """A two-part state moved by shears, then (for two-step methods) relabelled."""

    # Whether the two parts change places after the shears of a layer.
    swaps: bool = False

    @abstractmethod
    def shears(self, field: Dynamics, h: float, layer: int) -> tuple[Shear, ...]:
        """The shears of one layer, in order."""

    def step(self, field: Dynamics, state: State, theta: Theta, h: float, layer: int) -> State:
        for shear in self.shears(field, h, layer):
            state = sheared(shear, state, theta)
        return self.relabelled(state)

    def undo(self, field: Dynamics, state: State, theta: Theta, h: float, layer: int) -> State:
        """The state before a layer, from the state after it."""
        state = self.relabelled(state)
        for shear in reversed(self.shears(field, h, layer)):
            state = sheared(shear._replace(scale=-shear.scale), state, theta)
        return state

    def relabelled(self, state: State) -> State:
        """Its own inverse."""
        return state[::-1] if self.swaps else state

    def reversal_obstacle(self, field: Dynamics) -> str | None:
        if type(self).step is not ShearIntegrator.step:
            return f"{type(self).__name__} has a step of its own, which undoing its shears does not undo"
        return None


def sheared(shear: Shear, state: State, theta: Theta) -> State:
    """The state after one shear."""
    source = state[1 - shear.moved]
    rate = source if shear.rate is None else shear.rate(source, theta)
    target = state[shear.moved].add(rate, alpha=shear.scale)
    return (target, state[1]) if shear.moved == 0 else (state[0], target)


Start = Literal["full", "half"]


def _require_start(start: str) -> None:
    if start not in ("full", "half"):
        raise ValueError(f'start must be "full" or "half", got {start!r}')


def _oscillation(h: float, squares: Complex) -> Real:
    """The largest root of r² − (2 + h² μ) r + 1: two alternating shears on y'' = μ y."""
    trace = 2 + h**2 * squares
    root = np.sqrt(trace**2 - 4 + 0j)
    return np.maximum(np.abs(trace + root), np.abs(trace - root)) / 2


def _oscillation_steps(squares: Complex) -> Real:
    """2 / √−μ for real μ ≤ 0; 0 for any other μ, which grows at every h."""
    size = np.abs(squares)
    steps = np.divide(2.0, np.sqrt(size), out=np.full(size.shape, np.inf), where=size > 0)
    # A double μ without a second eigenvector comes with an imaginary part of the root of the rounding.
    oscillates = (squares.real <= 0) & (np.abs(squares.imag) <= 1e-7 * size)
    return np.where(oscillates, steps, 0.0)


@dataclass(frozen=True)
class Verlet(ShearIntegrator):
    """Störmer–Verlet on a partitioned field: one part moves, then the other with the new first.

    One kernel: z ← z − h f(y K + u); y ← y + h f(z Kᵀ + u). Two kernels: y first, then z (the
    published order of each). ``start="full"`` is first order in h. ``start="half"`` halves the
    first kick of z, which puts z at half steps and y at whole ones: second order in y. With it z
    moves first in every field, so that y, which the classifier reads, is always at the layer's time.
    """

    start: Start = "full"

    def __post_init__(self) -> None:
        _require_start(self.start)

    def adapted(self, field: Dynamics) -> Dynamics:
        return field.paired()

    def shears(self, field: Dynamics, h: float, layer: int) -> tuple[Shear, ...]:
        assert isinstance(field, PartitionedField)
        half = self.start == "half"
        kick = Shear(1, h / 2 if half and layer == 0 else h, field.rate_of_z)
        drift = Shear(0, h, field.rate_of_y)
        return (drift, kick) if field.moves_y_first and not half else (kick, drift)

    def amplification(self, h: float, eigenvalues: Complex) -> Real:
        return _oscillation(h, eigenvalues**2)

    def largest_steps(self, eigenvalues: Complex) -> Real:
        return _oscillation_steps(eigenvalues**2)


class _OnePart(ShearIntegrator):
    """Two-part states over a field of one part."""

    def adapted(self, field: Dynamics) -> Dynamics:
        if not isinstance(field, Field):
            raise ValueError(
                f"{type(self).__name__} moves a field of one part, got {type(field).__name__};"
                " use Verlet"
            )
        return field

    def finish(self, state: State) -> Parts:
        return state[:1]


@dataclass(frozen=True)
class Leapfrog(_OnePart):
    """Second order in time, y'' = f(y, θ), in the form (y, v): v ← v + h f(y, θ); y ← y + h v.

    With v = 0 at the start this is y₊ = 2 y − y₋ + h² f(y), y₋₁ = y₀, without its cancellation.
    ``start="half"`` halves the first kick: second order in h instead of first.
    """

    start: Start = "full"

    time_order = 2

    def __post_init__(self) -> None:
        _require_start(self.start)

    def begin(self, parts: Parts) -> State:
        return parts[0], torch.zeros_like(parts[0])

    def shears(self, field: Dynamics, h: float, layer: int) -> tuple[Shear, ...]:
        assert isinstance(field, Field)
        kick = h / 2 if self.start == "half" and layer == 0 else h
        return Shear(1, kick, field.rate), Shear(0, h, None)

    def amplification(self, h: float, eigenvalues: Complex) -> Real:
        return _oscillation(h, eigenvalues)

    def largest_steps(self, eigenvalues: Complex) -> Real:
        return _oscillation_steps(eigenvalues)


@dataclass(frozen=True)
class Midpoint(_OnePart):
    """Two-step midpoint: y₁ = y₀ + h f(y₀), then y₊ = y₋ + 2 h f(y). The state is (y, y₋).

    Its stability region is the segment [−i, i]: h ω ≤ 1, and never with damping.
    """

    swaps = True

    def begin(self, parts: Parts) -> State:
        return parts[0], parts[0]

    def shears(self, field: Dynamics, h: float, layer: int) -> tuple[Shear, ...]:
        assert isinstance(field, Field)
        return (Shear(1, h if layer == 0 else 2 * h, field.rate),)

    def amplification(self, h: float, eigenvalues: Complex) -> Real:
        x = h * eigenvalues
        root = np.sqrt(x**2 + 1 + 0j)
        return np.maximum(np.abs(x + root), np.abs(x - root))

    def largest_steps(self, eigenvalues: Complex) -> Real:
        size = np.abs(eigenvalues)
        steps = np.divide(1.0, size, out=np.full(size.shape, np.inf), where=size > 0)
        return np.where(np.abs(eigenvalues.real) <= 1e-12 * size, steps, 0.0)

    def reversal_obstacle(self, field: Dynamics) -> str | None:
        if field.contracts:
            return (
                f"{type(field).__name__} contracts, so stepping back amplifies the rounding errors"
            )
        return super().reversal_obstacle(field)
