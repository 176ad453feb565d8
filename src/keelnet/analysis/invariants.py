"""Invariants: the energy that a path should keep, and how exactly it can be stepped back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from keelnet.analysis.growths import together
from keelnet.analysis.path import Path
from keelnet.analysis.singular import norms
from keelnet.dynamics.fields import SymmetricField, Theta
from keelnet.dynamics.hamiltonian import PartitionedField, SeparableHamiltonian
from keelnet.propagation.bounds import explain_non_finite
from keelnet.propagation.checks import all_finite
from keelnet.propagation.integrators import State
from keelnet.propagation.shears import Leapfrog, ShearIntegrator, Verlet

ROUNDED = 100  # times eps: the part of the largest energy below which nothing is divided by one


@dataclass(frozen=True)
class Invariants:
    """Of one journey through a path, the largest over samples; None where there is no such thing.

    energy_deviation: max |E_j − E_0| / E_0 over layers. energy_drift: the mean of E over the last half of the layers
    by that over the first, minus 1. E is conserved by the flow where θ does not change in time; with θ(t) it
    is that of each layer's own θ. reversal_error: |ỹ_0 − y_0| / |y_0| of the state after all layers and back; by the first
    state that is not 0 where y_0 is.
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
        energies = [_energies(path, start, -1)]
        sizes = _squares(start) if isinstance(path.integrator, ShearIntegrator) else None
        for layer, after in enumerate(path.states(start, range(path.depth))):
            state = after
            energies.append(_energies(path, state, layer))
            if sizes is not None and not bool(sizes.all()):
                sizes = torch.where(sizes > 0, sizes, _squares(state))
        if not all_finite(state):
            raise ValueError(
                explain_non_finite(
                    path.integrator, path.field, start, path.controls, path.h, path.depth
                )
            )
        deviation, drift = _kept(energies)
        return Invariants(deviation, drift, _returned(path, start, state, sizes))


def _kept(energies: list[Tensor | None]) -> tuple[float, float] | tuple[None, None]:
    known = [energy for energy in energies if energy is not None]
    if not known:
        return None, None
    every = torch.stack(known)  # (layers + 1, samples)
    eps, every = torch.finfo(every.dtype).eps, every.double()
    least = (ROUNDED * eps * every.amax(0)).clamp(min=torch.finfo(every.dtype).tiny)
    middle = (len(every) + 1) // 2
    first, last = every[:middle].mean(0), every[middle:].mean(0)
    drift = (last - first) / torch.maximum(first, least)
    return (
        float(((every - every[0]).abs().amax(0) / torch.maximum(every[0], least)).max()),
        float(drift[drift.abs().argmax()]),
    )


def _energies(path: Path, state: State, layer: int) -> Tensor | None:
    """Of each sample; large batches part by part, for what an activation's energy takes on the way."""
    if isinstance(path.field, SeparableHamiltonian):
        state = path.integrator.finish(state)
    elif not (isinstance(path.field, SymmetricField) and isinstance(path.integrator, Leapfrog)):
        return None
    parts = zip(*(torch.split(part, together(state[0])) for part in state), strict=True)
    found = [_energy(path, some, layer) for some in parts]
    known = [each for each in found if each is not None]
    return torch.cat(known) if known else None


def _energy(path: Path, state: State, layer: int) -> Tensor | None:
    """After ``layer`` (−1: before the first), with the momentum brought to the time of y."""
    field, theta = path.field, path.theta(max(layer, 0))
    y, z = _in_step(path, state, theta, layer)
    try:
        if isinstance(field, SeparableHamiltonian):
            return field.energy(y, z, theta)
        assert isinstance(field, SymmetricField)
        return field.potential(y, theta) + 0.5 * z.flatten(1).square().sum(dim=1)
    except ValueError:  # no primitive of the activation is known, or a norm is in the way
        return None


def _in_step(path: Path, state: State, theta: Theta, layer: int) -> tuple[Tensor, Tensor]:
    """y, and z (or v) half a kick later where it lags by half a step."""
    y, z = state
    method = path.integrator
    if layer < 0 or not isinstance(method, (Verlet, Leapfrog)) or method.start == "full":
        return y, z
    return y, z + 0.5 * path.h * _kick(path, y, theta)


def _kick(path: Path, y: Tensor, theta: Theta) -> Tensor:
    if isinstance(path.field, PartitionedField):
        return path.field.rate_of_z(y, theta)
    (rate,) = path.field.rates((y,), theta)
    return rate


def _returned(path: Path, start: State, state: State, sizes: Tensor | None) -> float | None:
    method = path.integrator
    if not isinstance(method, ShearIntegrator) or method.reversal_obstacle(path.field):
        return None
    assert sizes is not None
    for layer in reversed(range(path.depth)):
        state = method.undo(path.field, state, path.theta(layer), path.h, layer)
    error = _squares(tuple(a - b for a, b in zip(state, start, strict=True)))
    return float((error / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)).sqrt().max())


def _squares(state: State) -> Tensor:
    """|y|² of each sample, over all parts."""
    return torch.stack([norms(part).square() for part in state]).sum(0)
