"""The verdict on a scene in words: what happens to the features, why, and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keelnet.analysis.courses import Course
from keelnet.analysis.levels import TOLERANCE, Level, level
from keelnet.analysis.outlines import scaled
from keelnet.app.model import Model
from keelnet.app.paths import Paths
from keelnet.app.spectra import Complex, steepest
from keelnet.dynamics import AntisymmetricField
from keelnet.propagation import Euler
from keelnet.propagation.integrators import numbers

SLOW = 2.0  # growth that an eye takes for none
GONE = 0.1  # of a distance: what is left of it cannot be told apart


@dataclass(frozen=True)
class Verdict:
    """level, one sentence of what happens, one of why; all numbers that led to it.

    amplification: |R(h λ)|, the largest of a layer with f' at its largest. along: the same with f' as the features
    meet it. step_bound: the largest h without growth (0: none, inf: any). grown: the largest singular value of
    ∂y_N/∂y_0 over the features; shrunk: the least. apart: the range of |y_a − y_b| at the last layer by that at the
    first (None for one feature).
    """

    level: Level
    what: str
    why: str
    amplification: float
    along: float
    step_bound: float
    grown: float
    shrunk: float
    apart: tuple[float, float] | None


@dataclass(frozen=True)
class _Found:
    """What was measured of a scene: the numbers of its verdict."""

    model: Model
    least: float  # |R(h λ)| of the layer and the λ where it is least
    amplification: float
    along: float
    bound: float
    grown: float
    shrunk: float
    apart: tuple[float, float] | None

    @property
    def inside(self) -> bool:
        """Whether every h λ lies inside the region, f' at its largest."""
        return self.amplification < 1 - TOLERANCE

    @property
    def partly(self) -> bool:
        """Whether some h λ lies inside the region, whatever the others do."""
        return self.least < 1 - TOLERANCE

    @property
    def leaves(self) -> bool:
        """Whether an h λ leaves the region where the features are."""
        return self.along > 1 + TOLERANCE

    @property
    def level(self) -> Level:
        """As kn.analysis.stability says it, except where an eigenvalue that should lie inside is seen to leave."""
        if self.inside and self.leaves and self.grown > SLOW:
            return "unstable"
        return level(self.amplification, self.grown)

    @property
    def layers(self) -> str:
        depth = self.model.scene.depth
        return f"{depth:,} layer" + "s" * (depth > 1)

    @property
    def method(self) -> str:
        return type(self.model.integrator).__name__


def verdict(paths: Paths, grown: Course, eigenvalues: Complex) -> Verdict:
    """What a scene's network does: from its spectrum, frozen in time, and from what was measured.

    eigenvalues: λ of the field where the features are, any shape.
    """
    model = paths.model
    h, rate = model.scene.step_size, model.integrator.amplification
    layer = rate(h, steepest(model))
    found = _Found(
        model,
        float(layer.min()),
        float(layer.max()),
        float(rate(h, eigenvalues).max()),
        _step_bound(model),
        _power(grown.largest[-1].max()),
        _power(grown.smallest[-1].min()),
        _apart(paths),
    )
    return Verdict(
        found.level,
        _WHAT[found.level](found),
        _why(found),
        found.amplification,
        found.along,
        found.bound,
        found.grown,
        found.shrunk,
        found.apart,
    )


def _step_bound(model: Model) -> float:
    """As kn.step_bound, of all layers at once: one by one RK4, which looks for it by bisection, takes 7 ms for each.

    Of Euler with the least damping, which follows h: the h up to which there is one, 1 / ω.
    """
    # Identical layers have identical spectra: one is asked.
    controls = model.controls if model.swings else {name: x[:1] for name, x in model.controls.items()}  # fmt: skip
    field = model.field
    if isinstance(field, AntisymmetricField) and isinstance(model.integrator, Euler) and isinstance(field.damping, str):  # fmt: skip
        omega = float(field.frequencies(controls).max())
        return 1 / omega if omega > 0 else math.inf
    spectrum = model.path.field.spectrum(controls)
    assert spectrum is not None  # every field of a scene has one
    return float(model.integrator.largest_steps(numbers(spectrum)).min())


def _unstable(found: _Found) -> str:
    times = f"a small difference between features is {figure(found.grown)} times as large"
    if found.grown < 1:
        return (
            f"Unstable by its spectrum (f′ at its largest), yet after {found.layers} {times}: f is flatter on the way,"
            " or the difference has turned."
        )
    if found.grown < SLOW:
        return f"Unstable, but slowly: after {found.layers} {times}, and more layers go on growing."
    return f"Unstable: after {found.layers} {times}."


def _dissipative(found: _Found) -> str:
    if found.apart is None:
        left, begin = found.grown, "a small difference dies out. Of it"
    else:
        left, begin = found.apart[1], "the features fall together. Of every distance"
    if left < GONE:
        return (
            f"Dissipative: {begin} at most {left:.1%} is left after {found.layers}, and what they differed"
            " in is lost."
        )
    if left > 1:
        return _not_yet(found, left)
    return f"Dissipative: differences shrink slowly; after {found.layers} they can still be told apart."


def _not_yet(found: _Found, left: float) -> str:
    return (
        f"Dissipative by its spectrum, but not yet: after {found.layers} a difference is up to"
        f" {figure(max(left, found.grown))} times as large."
    )


def _marginal(found: _Found) -> str:
    if found.inside:
        return _not_yet(found, found.grown)
    apart, explodes = found.apart, found.apart is not None and found.apart[1] >= 1 / GONE
    drift = ""
    if found.grown > SLOW:
        rate = found.grown ** (1 / found.model.scene.depth)
        drift = f" A small difference is at most {figure(found.grown)} times as large, {rate:.4g} a layer"
        drift += "." if explodes or apart is None else ": paths drift apart in phase."
    if apart is None:
        return (
            f"Stable: after {found.layers} a small difference is {figure(found.shrunk)} to"
            f" {figure(found.grown)} times as large.{drift}"
        )
    begin = "Not stable in practice" if explodes else "Stable"
    if explodes and found.model.swings:
        fate = "Differences have grown: the kernel pumps them up."
    elif explodes:
        fate = (
            "Differences have grown: by a double eigenvalue on the edge, or a turn past a saddle."
        )
    elif apart[0] > GONE:
        fate = "Nothing explodes." if found.partly else "Nothing explodes, nothing dies out."
    else:
        fate = "Nothing explodes; the closest have met, for good or in passing."
    return (
        f"{begin}: after {found.layers} every distance between features is {apart[0]:.2g} to {apart[1]:.2g}"
        f" times what it was. {fate}{drift}"
    )


_WHAT: dict[Level, Callable[[_Found], str]] = {
    "unstable": _unstable,
    "dissipative": _dissipative,
    "marginal": _marginal,
}


def _why(found: _Found) -> str:
    name, amplification = found.method, found.amplification
    symbol = scaled(found.model.integrator)
    if amplification > 1 + TOLERANCE:
        return _growing(found)
    left = (
        " On the way f′ differs between channels or is negative, so that an eigenvalue leaves the region and a layer"
        f" enlarges up to {found.along:.4g} times."
    ) * found.leaves
    if found.model.swings and found.grown > 1 / GONE and not (left or found.inside):
        return (
            "Each layer alone is stable, but the kernel changes in step with the features and pumps them up"
            " (parametric resonance); a kernel that changes smoothly and slowly does not."
        )
    place = f"Every {symbol} (f′ at its largest) lies inside the region of {name}: |R({symbol})| ≤ {amplification:.4g}."
    if not found.inside:
        edge = f"on the edge of the region of {name}, where a layer neither adds nor takes"
        place = (
            f"The {symbol} lie inside or {edge}" if found.partly else f"Every {symbol} lies {edge}"
        )
        if found.level == "marginal":
            return f"{place}: {_room(found)}.{left}"
        place += "."
    if found.level == "dissipative":
        return place + left
    if left:
        return f"No {symbol} leaves the region of {name} while f′ is at its largest.{left}"
    before = " before they shrink" * found.inside
    return (
        f"{place} But eigenvectors that are nearly parallel, or that turn as f′ changes on the way, let differences"
        f" grow{before}."
    )


def _room(found: _Found) -> str:
    if math.isinf(found.bound):
        return "any step size holds"
    if found.bound >= found.model.scene.step_size * (1 - 1e-9):
        return f"it holds up to h = {found.bound:.4g}"
    missed = max(abs(found.amplification - 1), float(np.finfo(float).eps))
    return f"to within {missed:.1g} a layer, which {found.layers} do not show"


def _growing(found: _Found) -> str:
    model, h, name = found.model, found.model.scene.step_size, found.method
    begin = f"A layer enlarges a difference up to {found.amplification:.7g} times: "
    if found.bound > 0:
        return begin + f"h = {h:g} exceeds the step bound {found.bound:.4g} of {name}."
    if _grows_itself(model):
        return begin + (
            "an eigenvalue lies right of the imaginary axis, so the differential equation itself grows and no"
            " step size helps. Constrain the kernel (antisymmetric), or take a Hamiltonian field under Verlet."
        )
    return begin + _off_axis(model, name)


def _off_axis(model: Model, name: str) -> str:
    """No growth in the equation, but in the method, at every step size."""
    if name != "Euler":
        return f"{name} holds on its segment alone, and λ does not lie on it; take another method."
    edge = "λ lies on the imaginary axis, which Euler's disc touches in 0 alone, so no step size holds; "
    if not isinstance(model.field, AntisymmetricField):
        return (
            edge
            + "Verlet holds (for a Hamiltonian field), or RK4, or damping (antisymmetric field)."
        )
    omega = model.field.frequencies(model.controls)
    if model.scene.step_size * float(omega.max()) > 1:
        return edge + "no damping does at this step size; a Hamiltonian field under Verlet does."
    least = float(model.integrator.least_damping(model.scene.step_size, omega))
    return edge + f"damping γ = {least:.4g} does, or a Hamiltonian field under Verlet."


def _grows_itself(model: Model) -> bool:
    spectrum = model.resolved.spectrum(model.controls)
    assert spectrum is not None
    values = numbers(spectrum)
    return bool((values.real > 1e-9 * np.maximum(np.abs(values), 1)).any())


def _apart(paths: Paths) -> tuple[float, float] | None:
    ratios = [float(d[-1] / d[0]) for _, d in paths.distances if d[0] > 0]
    return (min(ratios), max(ratios)) if ratios else None


def _power(logarithm: float) -> float:
    return 10.0**logarithm if logarithm < 308 else math.inf


def figure(value: float) -> str:
    """1.11, 46, 1,200, 3.2 · 10⁷ or 6.5 · 10⁻⁴⁰: as one says it."""
    if not math.isfinite(value):
        return "more than 10³⁰⁸"
    if 1e-3 <= value < 1e5 or value == 0:
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} · 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
