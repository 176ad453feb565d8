"""Presets: the figures of the source, and what this library adds to them, as scenes with a question each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from keelnet.app.scene import Rows, Scene
from keelnet.experiments.seed import (
    EULER_DEPTH,
    FEATURES,
    KERNELS,
    STEP_SIZE,
    VERLET_DEPTHS,
    VERLET_KERNEL,
    matrix,
)


@dataclass(frozen=True)
class Preset:
    """A scene, where it is from, and what to look at. plane: the two coordinates that are drawn."""

    key: str
    title: str
    hint: str
    scene: Scene
    plane: tuple[int, int] = (0, 1)


_EULER = Scene(kernel=KERNELS["plus"], step_size=STEP_SIZE, depth=EULER_DEPTH, features=FEATURES)
_TRANSPOSED: Rows = matrix(np.array(VERLET_KERNEL).T)
_VERLET = replace(_EULER, integrator="verlet", field="hamiltonian", kernel=_TRANSPOSED)


def _constrained(sign: str, damping: float) -> Scene:
    return replace(_EULER, field="antisymmetric", kernel=KERNELS[sign], damping=damping)


def _verlets() -> tuple[Preset, ...]:
    """Fig. 3, as printed (y has three components) and with the features in the plane."""
    hint = "The same kernel in {} layers: nothing explodes, nothing vanishes."
    return tuple(
        Preset(
            f"fig3-N{depth}-{reading}",
            f"Fig. 3: Verlet, {depth} layers ({words})",
            hint.format(depth),
            replace(_VERLET, kernel=kernel, depth=depth),
        )
        for reading, words, kernel in (
            ("y_in_R2", "y in the plane", _TRANSPOSED),
            ("y_in_R3", "y in space, as printed", VERLET_KERNEL),
        )
        for depth in VERLET_DEPTHS
    )


_RESONANT = Scene(
    integrator="verlet",
    field="double_hamiltonian",
    activation="identity",
    kernel=((1.0, 0.0), (0.0, 1.2)),
    depth=600,
    variation="abrupt",
    strength=0.3,
    period=3.14,
    features=((0.1, 0.1), (-0.1, -0.1), (0.0, 0.2)),
)

PRESETS: tuple[Preset, ...] = (
    Preset(
        "fig2a",
        "Fig. 2(a): the features before the first layer",
        "Two near the origin on opposite sides, one above. One layer of K₊ is drawn.",
        replace(_EULER, depth=1),
    ),
    Preset(
        "fig2b",
        "Fig. 2(b): Euler, K₊: unstable",
        "Features 1 (●) and 2 (■) begin side by side and leave in opposite directions.",
        _EULER,
    ),
    Preset(
        "fig2c",
        "Fig. 2(c): Euler, K₋: everything collapses",
        "All features end in the centre: who they were is forgotten.",
        replace(_EULER, kernel=KERNELS["minus"]),
    ),
    Preset(
        "fig2d",
        "Fig. 2(d): Euler, K₀: turns, and grows slowly",
        "Nearly a circle. Ask for 1000 layers: it was a spiral.",
        replace(_EULER, kernel=KERNELS["zero"]),
    ),
    Preset(
        "fig2e",
        "Fig. 2(e): antisymmetric, from K₊",
        "Same K₊, but only ½ (K − Kᵀ) acts: it turns instead of growing.",
        _constrained("plus", 0.0),
    ),
    Preset(
        "fig2e-damped",
        "Fig. 2(e), γ = 0.1",
        "γ offsets the growth of Euler's method.",
        _constrained("plus", 0.1),
    ),
    Preset(
        "fig2f",
        "Fig. 2(f): antisymmetric, from K₋",
        "Same K₋, but it forgets nothing.",
        _constrained("minus", 0.0),
    ),
    Preset(
        "fig2f-damped",
        "Fig. 2(f), γ = 0.1",
        "γ offsets the growth of Euler's method.",
        _constrained("minus", 0.1),
    ),
    *_verlets(),
    Preset(
        "plus-verlet",
        "K₊ again, under Verlet",
        "The kernel of Fig. 2(b), which exploded, in 1000 layers of a Hamiltonian field under Verlet.",
        replace(_VERLET, kernel=KERNELS["plus"], depth=1000),
    ),
    Preset(
        "zero-1000",
        "K₀ under Euler, 1000 layers",
        "The circle of Fig. 2(d) was a spiral: 1.00499 a layer is 145 in 1000.",
        replace(_EULER, kernel=KERNELS["zero"], depth=1000),
    ),
    Preset(
        "auto-1000",
        "Damping at its bound, 1000 layers",
        "The least γ that holds Euler: the spiral is a circle again.",
        replace(_constrained("plus", 0.0), damping=None, depth=1000),
    ),
    Preset(
        "hamiltonian-euler",
        "A Hamiltonian field under Euler",
        "The field of Fig. 3, but Euler's method: it gains energy in every layer.",
        replace(_VERLET, integrator="euler", depth=500),
    ),
    Preset(
        "resonance",
        "Two kernels, changing in resonance",
        "Every layer is stable by itself, yet small differences grow without bound.",
        _RESONANT,
    ),
    Preset(
        "smooth",
        "The same, changing slowly and smoothly",
        "The kernel changes as much, but slowly: no growth.",
        replace(_RESONANT, variation="smooth", period=30.0),
    ),
    Preset(
        "cloud",
        "400 paths, 1000 layers",
        "A cloud of features under Verlet; drag h across the step bound and watch.",
        replace(_VERLET, kernel=((0.0, -1.0), (1.0, 0.0)), depth=1000, cloud=397, spread=0.6),
    ),
)
