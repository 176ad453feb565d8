"""Layers: one layer of a path, frozen at the state that reaches it: its spectrum, its stretch, what would hold it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from keelnet.analysis.derivatives import differentiated, matrix_of
from keelnet.analysis.path import Path
from keelnet.analysis.singular import DENSE, Real, extremes
from keelnet.analysis.spectra import (
    STEPS,
    Complex,
    Matrix,
    Rounding,
    Spectrum,
    as_matrix,
    edge_of,
    oscillation_of,
    radius_of,
    spectrum_of,
)
from keelnet.dynamics.activations import activation_from
from keelnet.dynamics.bends import Bender
from keelnet.dynamics.fields import AntisymmetricField, Dynamics, SymmetricField
from keelnet.dynamics.hamiltonian import PartitionedField, SeparableHamiltonian
from keelnet.networks.stabilised import Branch
from keelnet.propagation.bounds import answered
from keelnet.propagation.implicit import IMEX
from keelnet.propagation.integrators import Euler, Integrator, State
from keelnet.propagation.shears import Leapfrog, Midpoint, Verlet

Flat = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LayerStability:
    """Layer ``layer`` (from 0), frozen at the state that reaches it.

    spectrum: of A, the Jacobian of the rate by the state (of y'' by y under Leapfrog). largest, smallest: singular
    values of the layer's map; where they have not converged the truth lies beyond. amplification: max |R(h λ)| over the spectrum, R the integrator's stability
    polynomial (the largest root of its characteristic polynomial for two-step methods). step_bound: the largest h with
    |R(h λ)| ≤ 1 for all λ. Under IMEX, whose diffusion has its say: the largest modulus of an eigenvalue of the layer's
    map, and the h of the explicit half where it suffices (`step_bound`), else nan. damping: under Euler the least γ for which f(y) − ½ γ y would not grow, 0 where none is
    needed; None where no γ does it at this h, and for other methods. Of a spectrum that is not complete they are those of the
    eigenvalues that are known; nan where none is, and where a method of one's own does not say. certain: whether no other
    eigenvalue can make the amplification larger or the step bound smaller.
    """

    layer: int
    spectrum: Spectrum
    largest: float
    smallest: float
    amplification: float
    step_bound: float
    damping: float | None = None
    certain: bool = True
    largest_converged: bool = True
    smallest_converged: bool = True

    @property
    def margin(self) -> float:
        """1 − max |R(h λ)|: how far inside the stability region the layer is; negative outside."""
        return 1 - self.amplification


def layer_stability(
    path: Path, state: State, layer: int, iterations: int = 30, steps: int = STEPS
) -> LayerStability:
    """The stability of one layer at its state of one sample (parts (1, …)); ``steps`` as in `spectrum_of`."""
    path, state = precise(path, state)
    spectrum, certain = _spectrum(path, state, layer, steps)
    step, y = _layer_map(path, state, layer), joined(state)
    found = extremes(differentiated(step, y), iterations, small=DENSE)
    ends = float(found.largest[0]), float(found.smallest[0])
    flags = bool(found.largest_converged[0]), bool(found.smallest_converged[0])
    row = as_layer(layer, spectrum, ends, flags, path.integrator, path.h, certain)
    if not isinstance(path.integrator, IMEX):
        return row
    size, sure = radius_of(jacobian_at(step, y), steps)
    known = path.integrator.suffices(path.field) and row.step_bound > 0
    # Where it suffices the ends of the spectrum decide of the bound: it lies on half of a line along an axis.
    return replace(
        row,
        amplification=size,
        step_bound=row.step_bound if known else math.nan,
        certain=sure and (spectrum.converged or not known),
    )


def as_layer(
    layer: int,
    spectrum: Spectrum,
    ends: tuple[float, float],
    converged: tuple[bool, bool],
    method: Integrator,
    h: float,
    certain: bool,
) -> LayerStability:
    """What the spectrum and the singular values (largest, least; whether they converged) say of a layer of ``method``."""
    values = spectrum.eigenvalues
    known = len(values) > 0
    rates = answered(method.amplification, h, values) if known else None
    steps = answered(method.largest_steps, values) if known else None
    return LayerStability(
        layer,
        spectrum,
        *ends,
        math.nan if rates is None else float(rates.max()),
        math.nan if steps is None else float(steps.min()),
        euler_damping(h, values) if known and isinstance(method, Euler) else None,
        certain,
        *converged,
    )


def euler_spectrum(
    matrix: Matrix, rounding: Rounding, h: float, steps: int = STEPS
) -> tuple[Spectrum, bool]:
    """The spectrum of A, among it what decides of Euler's steps of size h, and whether that is certain."""
    spectrum = spectrum_of(matrix, steps, rounding)
    if spectrum.complete:
        return spectrum, True
    values, certain = edge_of(matrix, spectrum.eigenvalues, h, steps)
    return replace(spectrum, eigenvalues=values), certain


def euler_damping(h: float, eigenvalues: Complex) -> float | None:
    """The least γ ≥ 0 with |1 + h (λ − γ/2)| ≤ 1 for every λ = a + i b; None where there is none.

    (1 + h a − h γ/2)² ≤ 1 − h² b². For a = 0 it is γ (1 − h γ/4) = h b².
    """
    squares = (h * eigenvalues.imag) ** 2
    if (squares > 1).any():
        return None
    # 1 + h a − √(1 − h² b²), without the cancellation at small h b.
    root = np.sqrt(1 - squares)
    low = h * eigenvalues.real + squares / (1 + root)
    high = 1 + h * eigenvalues.real + root
    least = max(0.0, float(low.max()))
    return 2 * least / h if least <= high.min() else None


def precise(path: Path, state: State) -> tuple[Path, State]:
    """In float64, except where a field holds numbers that have a type of their own."""
    if path.typed:
        return path, state
    return path.to(torch.float64), tuple(part.double() for part in state)


def _spectrum(path: Path, state: State, layer: int, steps: int) -> tuple[Spectrum, bool]:
    """Of one layer, and whether what decides of the method's steps is among it."""
    theta, field = path.theta(layer), path.field
    # What a method carries besides is no argument of the rate.
    parts = path.integrator.finish(state)
    rounding = rounding_of(parts[0], _is_read_off(field))
    if isinstance(path.integrator, Verlet):
        assert isinstance(field, PartitionedField)
        y, z = parts
        of_z = jacobian_at(lambda x: field.rate_of_y(x, theta), z)
        of_y = jacobian_at(lambda x: field.rate_of_z(x, theta), y)
        spectrum = oscillation_of(of_z, of_y, _oscillates(field), steps, rounding)
    else:
        rate = flattened(lambda given: field.rates(given, theta), parts)
        matrix = jacobian_at(rate, joined(parts))
        if isinstance(path.integrator, Euler):
            return euler_spectrum(matrix, rounding, path.h, steps)
        spectrum = spectrum_of(matrix, steps, rounding)
    return spectrum, spectrum.complete or (spectrum.converged and _is_radial(path))


def _is_read_off(field: Dynamics) -> bool:
    """Whether the rate is F of a whole block y + F(y) (`stabilised`)."""
    return isinstance(getattr(getattr(field, "branch", field), "module", None), Branch)


def _is_radial(path: Path) -> bool:
    """Whether the largest |λ| decides: on one half of an axis, where a method of shears neither grows nor decays up to it."""
    kind, field = type(path.integrator), path.field
    if kind is Verlet:
        return _oscillates(field)
    if kind is Leapfrog:
        return isinstance(field, SymmetricField) and _rises(field)
    if kind is Midpoint:
        return isinstance(field, AntisymmetricField) and not field.contracts and _rises(field)
    return False


def _oscillates(field: Dynamics) -> bool:
    """Whether every frozen layer has its spectrum on the imaginary axis: a Hamiltonian one of rising f."""
    return isinstance(field, SeparableHamiltonian) and _rises(field)


def _rises(field: Bender) -> bool:
    return field.norm is None and activation_from(field.activation).rising


def jacobian_at(function: Flat, x: Tensor) -> Matrix:
    """The Jacobian at one sample x (1, …): an array where it is small, else the products with it."""
    with torch.no_grad():
        value = function(x.clone())
    if max(value.numel(), x.numel()) <= DENSE:
        return matrix_of(function, x).double().cpu().numpy()
    jacobian = differentiated(function, x)

    def product(v: Real) -> Real:
        return _vector(
            jacobian.pushed(torch.as_tensor(v.reshape(x.shape), dtype=x.dtype, device=x.device))
        )

    def transposed(w: Real) -> Real:
        return _vector(
            jacobian.pulled(
                torch.as_tensor(w.reshape(value.shape), dtype=value.dtype, device=value.device)
            )
        )

    return as_matrix(value.numel(), x.numel(), product, transposed)


def rounding_of(y: Tensor, read_off: bool) -> Rounding:
    """Of a Jacobian at features y, in the numbers that they are of; ``read_off``: F's is that of y + F(y) less 1."""
    return Rounding(torch.finfo(y.dtype).eps, float(read_off))


def _vector(x: Tensor) -> Real:
    return x.detach().double().flatten().cpu().numpy()


def _layer_map(path: Path, state: State, layer: int) -> Flat:
    return flattened(lambda parts: path.step(parts, layer), state)


def joined(parts: State) -> Tensor:
    """All numbers of each sample in a row."""
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def flattened(function: Callable[[State], State], parts: State) -> Flat:
    """The same map on rows of all numbers of a sample."""
    shapes = [part.shape[1:] for part in parts]
    sizes = [part[0].numel() for part in parts]

    def flat(x: Tensor) -> Tensor:
        pieces = torch.split(x, sizes, dim=1)
        given = [piece.reshape(-1, *shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return joined(function(tuple(given)))

    return flat
