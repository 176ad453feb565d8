"""Gradient maps: where gradients vanish or explode, over depth and the size of the weights, for each architecture."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure

from keelnet.analysis.path import Path, PathDerivative
from keelnet.analysis.singular import extremes
from keelnet.analysis.tables import plain
from keelnet.experiments.pictures import png
from keelnet.networks import architectures
from keelnet.networks.network import blocks_of
from keelnet.propagation import StabilityWarning

NAMES = (
    "residual",
    "antisymmetric",
    "hamiltonian",
    "double_hamiltonian",
    "parabolic",
    "second_order",
)
SHOWN = 6.0  # decades


@dataclass(frozen=True)
class GradientMaps:
    """σ_max and σ_min of a block's Jacobian, the most that it stretches and shrinks a gradient on its way back.

    ``width`` numbers, ``depth`` layers of ``step_size`` (T grows with the depth), weights N(0, gain² / width), the same in
    every layer, at one Gaussian input; float64.
    """

    name: ClassVar[str] = "gradients"
    depths: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    gains: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    width: int = 8
    step_size: float = 0.1
    seed: int = 0

    def run(self) -> dict[str, Any]:
        """(gains, depths) of log10 σ by architecture and end; None where not finite or lost in rounding."""
        maps = {
            name: [[self._ends(name, depth, gain) for depth in self.depths] for gain in self.gains]
            for name in NAMES
        }
        return {"settings": asdict(self), "log10_largest_and_smallest": maps}

    def _ends(self, name: str, depth: int, gain: float) -> list[float | None]:
        with warnings.catch_warnings(), np.errstate(divide="ignore"):
            warnings.simplefilter("ignore", StabilityWarning)  # beyond the bound is part of the map
            network = getattr(architectures, name)(
                2, 2, width=self.width, depth=depth, final_time=depth * self.step_size, gain=gain, seed=self.seed
            ).double()  # fmt: skip
            (block,) = blocks_of(network)
            generator = torch.Generator().manual_seed(self.seed)
            y = torch.randn(1, self.width, dtype=torch.float64, generator=generator)
            found = extremes(PathDerivative(Path.of(block, y), y))
            least = found.smallest[0] if found.smallest_converged[0] else np.nan
            ends: list[float | None] = plain(np.log10([found.largest[0], least]))
        return ends

    def pictures(self, found: Mapping[str, Any]) -> dict[str, bytes]:
        """A column an architecture; above how much gradients may explode, below how much they may vanish."""
        figure = Figure(figsize=(14, 5.4), layout="constrained")
        figure.suptitle(
            f"Gradients through N layers of h = {self.step_size:g}: decades by which the most stretched"
            " (above) and the most shrunk direction changes; lost: below rounding"
        )
        grid = figure.subplots(2, len(NAMES), sharex=True, sharey=True)
        for column, (name, cells) in enumerate(found["log10_largest_and_smallest"].items()):
            for row in (0, 1):
                values = np.array([[_number(cell[row]) for cell in line] for line in cells])
                axes = grid[row][column]
                image = axes.imshow(
                    values, origin="lower", cmap="PuOr_r", vmin=-SHOWN, vmax=SHOWN, aspect="auto"
                )
                _numbered(axes, values)
            grid[0][column].set_title(name.replace("_", " "))
            grid[1][column].set_xticks(range(len(self.depths)), map(str, self.depths), fontsize=7)
            grid[1][column].set_xlabel("depth N")
        for row, label in enumerate(("largest", "smallest")):
            grid[row][0].set_yticks(range(len(self.gains)), [f"{gain:g}" for gain in self.gains])
            grid[row][0].set_ylabel(f"{label}: gain of the weights")
        figure.colorbar(image, ax=grid, label="log₁₀ of the singular value", extend="both")
        return {"gradients.png": png(figure)}


def _numbered(axes: Any, values: Any) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.text(column, row, "lost", ha="center", va="center", color="0.4", fontsize=6)
            continue
        ink = "white" if abs(value) > 0.6 * SHOWN else "black"
        text = f"{value:.0f}" if abs(value) >= 9.5 else f"{round(value, 1) + 0.0:.1f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
