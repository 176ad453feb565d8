"""Starts: the first kick of Verlet from z = 0, full or half, and the order in h that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from keelnet.analysis.palette import BLUE, VERMILION
from keelnet.experiments.pictures import png
from keelnet.experiments.seed import STARTS, Array, verlet
from keelnet.propagation.shears import Start


@dataclass(frozen=True)
class StartOfTheGrid:
    """max |y(T) − y*(T)| of the source's features on its 3 × 2 kernel (y in R²), N = ``depths`` layers to T.

    y* is the half start with ``finest`` layers. A full first kick is first order in h, a half one second.
    """

    name: ClassVar[str] = "start"
    final_time: float = 5.0
    depths: tuple[int, ...] = (50, 100, 200, 400)
    finest: int = 12800

    def __post_init__(self) -> None:
        grids = (*self.depths, self.finest)
        if len(self.depths) < 2 or any(a >= b for a, b in pairwise(grids)):
            raise ValueError(
                f"depths must be two or more that increase, all below finest = {self.finest}, got {self.depths}"
            )

    def run(self) -> dict[str, Any]:
        """Errors and observed orders by start."""
        exact = self._last(self.finest, "half")
        errors = {
            start: [float(np.abs(self._last(n, start) - exact).max()) for n in self.depths]
            for start in STARTS
        }
        orders = {
            start: [
                float(np.log2(a / b) / np.log2(n / m))
                for (a, b), (m, n) in zip(pairwise(each), pairwise(self.depths), strict=True)
            ]
            for start, each in errors.items()
        }
        return {"settings": asdict(self), "errors": errors, "orders": orders}

    def _last(self, depth: int, start: Start) -> Array:
        experiment = verlet(depth, start, "y_in_R2")
        return replace(experiment, step_size=self.final_time / depth).run().y[-1]

    def pictures(self, found: Mapping[str, Any]) -> dict[str, bytes]:
        """Errors against depth, with the slopes of first and second order."""
        figure = Figure(figsize=(6, 4.4), layout="constrained")
        axes = figure.subplots()
        depths = np.array(self.depths, float)
        for (start, errors), colour, mark, order in zip(
            found["errors"].items(), (VERMILION, BLUE), "os", (1, 2), strict=True
        ):
            observed = found["orders"][start][-1]
            label = f"{start} first kick: order {observed:.2f}"
            axes.plot(depths, errors, mark + "-", color=colour, label=label)
            axes.plot(
                depths, errors[0] * (depths[0] / depths) ** order, ":", color="0.5", linewidth=1
            )
        axes.plot([], [], ":", color="0.5", label="slopes of order 1 and 2")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=f"layers to T = {self.final_time:g}",
            ylabel="error of y(T)",
        )
        axes.set_xticks(depths, [f"{n:.0f}" for n in depths])
        axes.minorticks_off()
        axes.set_title("Verlet from z = 0")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
        return {"start.png": png(figure)}
