"""Dampings: how much γ an antisymmetric network needs under Euler, swept through the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from keelnet.analysis.layers import euler_damping
from keelnet.analysis.palette import BLUE, ORANGE, VERMILION
from keelnet.experiments.pictures import png
from keelnet.experiments.seed import KERNELS, STEP_SIZE, antisymmetric


@dataclass(frozen=True)
class DampingSweep:
    """|y(T)| / |y(0)| of the source's first feature after ``depth`` layers with K₀ (ω = 1), h = 0.1, against γ.

    The bound is γ (1 − h γ/4) = h ω²; below it |1 + h λ| > 1 and features grow until tanh holds them.
    """

    name: ClassVar[str] = "damping"
    depth: int = 1000
    least: float = 1e-3
    largest: float = 1.0
    count: int = 25

    def run(self) -> dict[str, Any]:
        """Lengths against γ, 0 among them, and the bound."""
        omega = np.array([1j, -1j])
        bound = euler_damping(STEP_SIZE, omega)
        assert bound is not None
        swept = np.geomspace(self.least, self.largest, self.count)
        dampings = sorted({0.0, 0.01, 0.1, bound, *swept.tolist()})
        lengths = [self._length(damping) for damping in dampings]
        factors = [float(abs(1 + STEP_SIZE * (1j - damping / 2))) for damping in dampings]
        return {
            "settings": asdict(self) | {"step_size": STEP_SIZE, "omega": 1.0},
            "bound": bound,
            "damping": dampings,
            "length": lengths,
            "amplification": factors,
        }

    def _length(self, damping: float) -> float:
        y = antisymmetric(KERNELS["zero"], damping, self.depth).run().y[:, 0]
        return float(np.linalg.norm(y[-1]) / np.linalg.norm(y[0]))

    def pictures(self, found: Mapping[str, Any]) -> dict[str, bytes]:
        """Length and growth of a layer against γ, with the bound."""
        figure = Figure(figsize=(10, 4), layout="constrained")
        figure.suptitle(
            f"Euler on K₀, h = {STEP_SIZE:g}, {self.depth} layers: how much damping holds it"
        )
        length, factor = figure.subplots(1, 2)
        length.plot(found["damping"][1:], found["length"][1:], "o-", color=BLUE, markersize=4)
        length.axhline(found["length"][0], color=ORANGE, linestyle="--", label="γ = 0")
        length.set(ylabel="|y(T)| / |y(0)|", yscale="log")
        factor.plot(
            found["damping"][1:], found["amplification"][1:], "o-", color=BLUE, markersize=4
        )
        factor.set(ylabel="|1 + h λ|, a layer")
        for axes in (length, factor):
            axes.axvline(
                found["bound"],
                color=VERMILION,
                linestyle=":",
                label=f"bound γ = {found['bound']:.4g}",
            )
            axes.axhline(1, color="0.6", linewidth=0.8)
            axes.set(xscale="log", xlabel="damping γ")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=9)
        return {"damping.png": png(figure)}
