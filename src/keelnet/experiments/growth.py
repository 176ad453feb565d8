"""Growth against depth: what a perturbation becomes under each method, with kernels that stay, glide or jump in time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from keelnet.analysis.growths import growth_by_layer
from keelnet.analysis.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from keelnet.analysis.path import Path
from keelnet.analysis.singular import SMALL
from keelnet.analysis.tables import plain
from keelnet.dynamics import (
    AntisymmetricField,
    Control,
    DenseKernel,
    DoubleHamiltonianField,
    HamiltonianField,
    SingleField,
)
from keelnet.dynamics.fields import Dynamics
from keelnet.experiments.pictures import png
from keelnet.networks import Block
from keelnet.propagation import Euler, Integrator, StabilityWarning, Verlet


@dataclass(frozen=True)
class GrowthAgainstDepth:
    """σ_max of the derivative up to each layer at y = z = 0, where f' = 1 and the network is linear, float64.

    K(t) = ω(t) Q with one orthogonal Q (width × width), drawn once, and h ω ≤ h · ``fast`` = 0.2. ω stays at ``fast``;
    glides from it to fast / ratio and back once over T; or jumps between them every quarter of its own period, which
    is parametric resonance: with two kernels (y' = z, z' = −ω² y) each pair of jumps gains the factor ``ratio``.
    A quarter takes a layer at least: h ω < π for both ω.
    """

    name: ClassVar[str] = "growth"
    depth: int = 1000
    step_size: float = 0.1
    width: int = 4
    fast: float = 2.0
    ratio: float = 2.2
    seed: int = 0

    def __post_init__(self) -> None:
        if 2 * self.width > SMALL:
            raise ValueError(
                f"width must be at most {SMALL // 2}, up to which every case's σ_max is exact, got {self.width}; use a smaller"
                " width"
            )
        fastest = self.step_size * max(self.fast, self.fast / self.ratio)
        if not fastest < np.pi:
            raise ValueError(
                f"step_size times the largest frequency must be below π, got {fastest:.4g}; use a smaller step_size"
            )

    def run(self) -> dict[str, Any]:
        """Growth by layer of every case; None beyond the largest number."""
        return {
            "settings": asdict(self),
            "growth": plain(self.curves()),
        }

    def curves(self) -> dict[str, Any]:
        """σ_max after every layer (depth,) by case."""
        return {name: self._curve(*case) for name, case in self._cases().items()}

    def frequencies(self) -> dict[str, Tensor]:
        """ω of each layer (depth,), by how it changes in time."""
        slow = self.fast / self.ratio
        phase = 2 * np.pi * torch.arange(self.depth, dtype=torch.float64) / self.depth
        middle, half = (self.fast + slow) / 2, (self.fast - slow) / 2
        return {
            "constant": torch.full((self.depth,), self.fast, dtype=torch.float64),
            "smooth": middle + half * phase.cos(),
            "resonant": self._jumps(self.fast, slow),
        }

    def _jumps(self, fast: float, slow: float) -> Tensor:
        quarters = [(omega, round(np.pi / 2 / (self.step_size * omega))) for omega in (fast, slow)]
        once = torch.cat([torch.full((count,), omega) for omega, count in quarters])
        return once.repeat(self.depth // len(once) + 1)[: self.depth].double()

    def _cases(self) -> dict[str, tuple[Integrator, Dynamics, dict[str, Tensor]]]:
        kernel = DenseKernel(self.width)
        q = torch.linalg.qr(torch.randn(self.width, self.width, dtype=torch.float64, generator=torch.Generator().manual_seed(self.seed)))[0]  # fmt: skip
        in_time = {name: omega[:, None, None] * q for name, omega in self.frequencies().items()}
        still = {"weight": in_time["constant"]}
        one = q.expand(self.depth, *q.shape)
        return {
            "plain Euler": (Euler(), SingleField(kernel), still),
            "antisymmetric Euler, γ = 0": (Euler(), AntisymmetricField(kernel), still),
            "antisymmetric Euler, γ at its bound": (
                Euler(), AntisymmetricField(kernel, damping="auto"), still,
            ),
            **{
                f"Verlet, one kernel, {name}": (Verlet(), HamiltonianField(kernel), {"weight": k})
                for name, k in in_time.items()
            },
            **{
                f"Verlet, two kernels, {name}": (
                    Verlet(), DoubleHamiltonianField(kernel, kernel), {"weight_1": one, "weight_2": k},
                )
                for name, k in in_time.items()
            },
        }  # fmt: skip

    def _curve(self, method: Integrator, field: Dynamics, controls: Mapping[str, Tensor]) -> Any:
        parts = 2 if isinstance(method, Verlet) else 1
        y = torch.zeros(1, parts * self.width, dtype=torch.float64)
        final_time = self.depth * self.step_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)  # γ = 0 is what is measured
            block = Block(method, field, self.depth, final_time, Control(controls))
            return growth_by_layer(Path.of(block, y), y)[:, 0]

    def pictures(self, found: Mapping[str, Any]) -> dict[str, bytes]:
        """Growth against depth, logarithmic: Euler's left, Verlet's right."""
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        figure.suptitle(
            f"Growth of a perturbation, linear layers of h ω ≤ {self.step_size * self.fast:g}"
        )
        grid = figure.subplots(1, 2)
        colours = (VERMILION, ORANGE, GREEN, BLUE, PURPLE, SKY)
        styles = ("-", "--", "-.", "-", "--", ":")
        for axes, kind in zip(grid, ("Euler", "Verlet"), strict=True):
            own = {name: values for name, values in found["growth"].items() if kind in name}
            palette = colours if kind == "Euler" else (GREEN, BLUE, SKY, ORANGE, PURPLE, VERMILION)
            for (name, values), colour, style in zip(own.items(), palette, styles, strict=False):
                layers = range(1, len(values) + 1)
                label = f"{name.removeprefix('Verlet, ')}: {_short(values[-1])}"
                axes.plot(layers, _drawn(values), style, color=colour, label=label, linewidth=1.6)
            axes.set(yscale="log", xlabel="depth, layers", title=kind)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8, title="at the last layer", title_fontsize=8)
        grid[0].set_ylabel("largest singular value up to here")
        return {"growth.png": png(figure)}


def _drawn(values: Sequence[float | None]) -> Any:
    """Up to 1e200: the margin above and the tick after the last must be numbers, too."""
    y = np.array(values, float)
    return np.where(y < 1e200, y, np.nan)


def _short(value: float | None) -> str:
    if value is None:
        return "beyond 1e308"
    return f"×{value:.3g}" if value < 1e4 else f"×{value:.1e}"
