"""The verdict on a scene in words: what happens to the features, why, and the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keelnet.analysis.courses import Course
from keelnet.app.model import Model
from keelnet.app.paths import Paths
from keelnet.dynamics import AntisymmetricField
from keelnet.propagation.bounds import Controls, largest_amplification
from keelnet.propagation.integrators import numbers

Level = Literal["unstable", "marginal", "dissipative"]
# As in kn.analysis.stability: less a layer is lost in the rounding of float32.
TOLERANCE = 1e-6
SLOW = 2.0  # growth that an eye takes for none
PUMPED = 100.0  # growth that a kernel constant in time does not reach by turning alone
GONE = 0.1  # of a distance: what is left of it cannot be told apart


@dataclass(frozen=True)
class Verdict:
    """level, one sentence of what happens, one of why; all numbers that led to it.

    amplification: |R(h λ)|, the largest of a layer with f' at its largest. step_bound: the largest h without
    growth (0: none, inf: any). grown: the largest singular value of ∂y_N/∂y_0 over the features; shrunk: the least.
    apart: the range of |y_a − y_b| at the last layer by that at the first (None for one feature).
    """

    level: Level
    what: str
    why: str
    amplification: float
    step_bound: float
    grown: float
    shrunk: float
    apart: tuple[float, float] | None


def verdict(paths: Paths, grown: Course) -> Verdict:
    """What a scene's network does, from its spectrum (frozen in time) and from what was measured."""
    model = paths.model
    h = model.scene.step_size
    # Identical layers have identical spectra: one is asked.
    many = model.scene.variation != "constant"
    controls = model.controls if many else {name: x[:1] for name, x in model.controls.items()}
    amplification = largest_amplification(model.integrator, model.resolved, controls, h)
    assert amplification is not None  # every field of a scene has a spectrum
    bound = _step_bound(model, controls)
    largest, smallest = _power(grown.largest[-1].max()), _power(grown.smallest[-1].min())
    level = _level(model, amplification, largest)
    return Verdict(
        level,
        _what(paths, level, amplification, largest),
        _why(model, level, amplification, bound),
        amplification,
        bound,
        largest,
        smallest,
        _apart(paths),
    )


def _step_bound(model: Model, controls: Controls) -> float:
    """As kn.step_bound, of all layers at once: one by one RK4, which looks for it by bisection, takes 7 ms for each."""
    spectrum = model.path.field.spectrum(controls)
    assert spectrum is not None
    return float(model.integrator.largest_steps(numbers(spectrum)).min())


def _level(model: Model, amplification: float, grown: float) -> Level:
    pumped = model.scene.variation != "constant" and grown > PUMPED
    if amplification > 1 + TOLERANCE or pumped:
        return "unstable"
    return "dissipative" if amplification < 1 - TOLERANCE else "marginal"


def _what(paths: Paths, level: Level, amplification: float, grown: float) -> str:
    depth = paths.model.scene.depth
    layers = f"{depth:,} layer" + "s" * (depth > 1)
    if level == "unstable":
        times = (
            f"after {layers} a small difference between features is {figure(grown)} times as large"
        )
        if grown < SLOW:
            return f"Unstable, but slowly: {times}, and more layers go on growing."
        return f"Unstable: {times}."
    apart = _apart(paths)
    if level == "dissipative":
        if apart is not None and apart[1] < GONE:
            return (
                f"Dissipative: the features fall together. Of every distance at most {apart[1]:.1%}"
                f" is left after {layers}, and what they differed in is lost."
            )
        return (
            f"Dissipative: differences shrink slowly; after {layers} they can still be told apart."
        )
    drift = ""
    if grown > SLOW:
        drift = (
            f" A small difference is at most {figure(grown)} times as large, {grown ** (1 / depth):.4g} a layer:"
            " paths drift apart in phase."
        )
    if apart is None:
        return f"Stable: after {layers} the feature has neither grown nor died out.{drift}"
    return (
        f"Stable: after {layers} every distance between features is {apart[0]:.2g} to {apart[1]:.2g}"
        f" times what it was. Nothing explodes, nothing dies out.{drift}"
    )


def _why(model: Model, level: Level, amplification: float, bound: float) -> str:
    h, name = model.scene.step_size, type(model.integrator).__name__
    if level == "dissipative":
        return f"Every h λ lies inside the region of {name}: a layer leaves at most {amplification:.4g} of a difference."
    if level == "marginal":
        room = "any step size holds" if math.isinf(bound) else f"it holds up to h = {bound:.4g}"
        return f"Every h λ lies on the edge of the region of {name}, where a layer neither adds nor takes: {room}."
    if amplification <= 1 + TOLERANCE:
        return (
            "Each layer alone is stable, but the kernel changes in step with the features and pumps them up"
            " (parametric resonance); a kernel that changes smoothly and slowly does not."
        )
    begin = f"A layer enlarges a difference up to {amplification:.7g} times: "
    if bound > 0:
        return begin + f"h = {h:g} exceeds the step bound {bound:.4g} of {name}."
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
    """1.11, 46, 1,200 or 3.2 · 10⁷: as one says it."""
    if not math.isfinite(value):
        return "more than 10³⁰⁸"
    if value < 1e5:
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} · 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
