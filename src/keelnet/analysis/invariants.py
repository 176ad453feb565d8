"""Invariants: the energy that a path should keep, and how exactly it can be stepped back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from keelnet.analysis.path import Path
from keelnet.dynamics.fields import SymmetricField, Theta
from keelnet.dynamics.hamiltonian import PartitionedField, SeparableHamiltonian
from keelnet.propagation.bounds import explain_non_finite
from keelnet.propagation.checks import all_finite
from keelnet.propagation.integrators import State
from keelnet.propagation.shears import Leapfrog, ShearIntegrator, Verlet


@dataclass(frozen=True)
class Invariants:
    """Of one journey through a path, the largest over samples; None where there is no such thing.

    energy_deviation: max |E_j − E_0| / E_0 over layers. energy_drift: the mean of E over the last half of the layers
    by that over the first, minus 1. E is conserved by the flow where θ does not change in time; with θ(t) it
    is that of each layer's own θ. reversal_error: |ỹ_0 − y_0| / |y_0| of the state after all layers and back.
    """

    energy_deviation: float | None
    energy_drift: float | None
    reversal_error: float | None

    def returns(self, dtype: torch.dtype) -> bool:
        """Whether stepping back finds the states again, all but rounding: 6·10⁻⁶ in float32, 2·10⁻¹² in float64."""
        error = self.reversal_error
        return error is not None and error <= torch.finfo(dtype).eps ** 0.75


def invariants(path: Path, y: Tensor) -> Invariants:
    """Walk once forward, and back where the method can; raises ValueError where the state becomes non-finite."""
    with torch.no_grad():
        state = start = path.begin(y)
        energies = [_energy(path, start, -1)]
        for layer, after in enumerate(path.states(start, range(path.depth))):
            state = after
            energies.append(_energy(path, state, layer))
        if not all_finite(state):
            raise ValueError(
                explain_non_finite(
                    path.integrator, path.field, start, path.controls, path.h, path.depth
                )
            )
        deviation, drift = _kept(energies)
        return Invariants(deviation, drift, _returned(path, start, state))


def _kept(energies: list[Tensor | None]) -> tuple[float, float] | tuple[None, None]:
    known = [energy.double() for energy in energies if energy is not None]
    if not known:
        return None, None
    every = torch.stack(known)  # (layers + 1, samples)
    least = torch.finfo(every.dtype).tiny
    middle = (len(every) + 1) // 2
    first, last = every[:middle].mean(0), every[middle:].mean(0)
    drift = (last - first) / first.clamp(min=least)
    return (
        float(((every - every[0]).abs().amax(0) / every[0].clamp(min=least)).max()),
        float(drift[drift.abs().argmax()]),
    )


def _energy(path: Path, state: State, layer: int) -> Tensor | None:
    """After ``layer`` (−1: before the first), with the momentum brought to the time of y."""
    field, theta = path.field, path.theta(max(layer, 0))
    try:
        if isinstance(field, SeparableHamiltonian):
            y, z = _in_step(path, path.integrator.finish(state), layer)
            return field.energy(y, z, theta)
        if isinstance(field, SymmetricField) and isinstance(path.integrator, Leapfrog):
            y, v = _in_step(path, state, layer)
            return field.potential(y, theta) + 0.5 * v.flatten(1).square().sum(dim=1)
    except ValueError:  # no primitive of the activation is known, or a norm is in the way
        return None
    return None


def _in_step(path: Path, state: State, layer: int) -> tuple[Tensor, Tensor]:
    """y, and z (or v) half a kick later where it lags by half a step."""
    y, z = state
    method = path.integrator
    if layer < 0 or not isinstance(method, (Verlet, Leapfrog)) or method.start == "full":
        return y, z
    return y, z + 0.5 * path.h * _kick(path, y, path.theta(layer))


def _kick(path: Path, y: Tensor, theta: Theta) -> Tensor:
    if isinstance(path.field, PartitionedField):
        return path.field.rate_of_z(y, theta)
    (rate,) = path.field.rates((y,), theta)
    return rate


def _returned(path: Path, start: State, state: State) -> float | None:
    method = path.integrator
    if not isinstance(method, ShearIntegrator) or method.reversal_obstacle(path.field):
        return None
    for layer in reversed(range(path.depth)):
        state = method.undo(path.field, state, path.theta(layer), path.h, layer)
    # Per sample over all parts.
    error = torch.stack([_square(a - b) for a, b in zip(state, start, strict=True)]).sum(0)
    size = torch.stack([_square(part) for part in start]).sum(0)
    least = torch.finfo(size.dtype).tiny
    return float((error / size.clamp(min=least)).sqrt().max())


def _square(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(dim=1)
