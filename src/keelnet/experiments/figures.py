"""Pictures: phase planes with their field, and the figures of the source paper drawn with them.

Drawn on ``Figure`` objects, without pyplot's global state; the same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, withStroke
from matplotlib.ticker import MaxNLocator

from keelnet.analysis.palette import BLUE, OCHRE, VERMILION, YELLOW
from keelnet.experiments.seed import VERLET_DEPTHS, VERLET_KERNEL, Array, Trajectory, experiments

Rate = Callable[[Array], Array]

COORDINATES = ("first coordinate", "second coordinate")
INK = "#222222"
ARROW = "#9aa3ad"
DOTS_PER_INCH = 160
BOLD = 25


@dataclass(frozen=True)
class FeatureStyle:
    """How one feature is drawn: its colour, that of its thin lines and dots, marker and z-order."""

    name: str
    color: str
    shade: str
    dot: str
    marker: str
    layer: int


# The source's blue, orange and yellow.
STYLES = (
    FeatureStyle("y₁", BLUE, BLUE, "white", "o", 6),
    FeatureStyle("y₂", VERMILION, VERMILION, "white", "s", 6),
    FeatureStyle("y₃", YELLOW, OCHRE, INK, "^", 5),
)


def canvas(rows: int, columns: int, width: float = 10.5, extra: float = 0.9) -> Figure:
    """A figure of rows × columns square panels, ``extra`` inches of height for title and legend."""
    height = width * rows / columns + extra
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DOTS_PER_INCH)
    figure.subplots(rows, columns)
    return figure


def phase_plane(
    axis: Axes,
    y: Array,
    window: Sequence[float],
    rate: Rate | None = None,
    title: str = "",
    labels: tuple[str, str] = COORDINATES,
) -> None:
    """Paths y (N + 1, features, 2) over the field ``rate`` (points (..., 2) to arrows).

    ``window`` is (left, right, bottom, top), which should be square.
    """
    axis.set(xlim=window[:2], ylim=window[2:], aspect="equal", xlabel=labels[0], ylabel=labels[1])
    axis.set_title(title, fontsize=11)
    for line in (axis.xaxis, axis.yaxis):
        line.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    for draw in (axis.axhline, axis.axvline):
        draw(0, color="#d5d9de", linewidth=0.8, zorder=0)
    if rate is not None:
        field_arrows(axis, rate, window)
    for path, style in zip(y.swapaxes(0, 1), STYLES, strict=True):
        feature_path(axis, path, style)


def field_arrows(axis: Axes, rate: Rate, window: Sequence[float], count: int = 13) -> None:
    """The field on a count × count grid; length grows with √|rate|, so weak arrows stay visible."""
    margin = (window[1] - window[0]) / count / 2
    across = np.linspace(window[0] + margin, window[1] - margin, count)
    up = np.linspace(window[2] + margin, window[3] - margin, count)
    points = np.stack(np.meshgrid(across, up), axis=-1)
    arrows = rate(points)
    size = np.linalg.norm(arrows, axis=-1, keepdims=True)
    longest = float(size.max()) or 1.0
    share = np.maximum(size / longest, 1e-12)
    scaled = arrows / longest / np.sqrt(share) * (1.7 * margin)
    axis.quiver(
        *np.moveaxis(points, -1, 0),
        *np.moveaxis(scaled, -1, 0),
        color=ARROW,
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        width=0.0042,
        headwidth=4,
        headlength=4.5,
        headaxislength=4,
        zorder=1,
    )


def feature_path(axis: Axes, path: Array, style: FeatureStyle) -> None:
    """One path (N + 1, 2): hollow start, filled end, a dot a layer while the layers are few.

    Of a long path the last 25 layers are bold and the others thin, so that its end is found.
    """
    few = len(path) <= 60
    if not few:
        thin = 0.9 if len(path) <= 300 else 0.5
        axis.plot(*path.T, color=style.shade, linewidth=thin, alpha=0.6, zorder=style.layer - 2)
    bold = path if few else path[-BOLD - 1 :]
    rim = [withStroke(linewidth=2.9, foreground=INK), Normal()]
    axis.plot(*bold.T, color=style.color, linewidth=2.2, path_effects=rim, zorder=style.layer)
    if few:
        axis.plot(*path.T, ".", color=style.dot, markersize=0.9, zorder=style.layer)
    draw_mark(axis, path[0], style, fill="white")
    draw_mark(axis, path[-1], style, fill=style.color)


def draw_mark(axis: Axes, point: Array, style: FeatureStyle, fill: str) -> None:
    """The feature's marker, with a dark rim, so that yellow shows on white."""
    inner = INK if fill == style.color else style.color
    for rim, width in ((INK, 2.6), (inner, 1.3)):
        axis.plot(
            *point,
            marker=style.marker,
            markersize=8.5,
            markerfacecolor=fill,
            markeredgecolor=rim,
            markeredgewidth=width,
            zorder=style.layer + 3,
        )


def add_legend(figure: Figure, arrows: str) -> None:
    """Below the panels: the features, start and end, and what the grey arrows are."""
    handles = [_key(style.name, style.marker, style.color) for style in STYLES]
    handles += [_key("layer 0", "o", "white"), _key("last layer", "o", "#777777")]
    handles += [Line2D([], [], color=ARROW, marker=">", linewidth=1.6, label=arrows)]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=11)


def _key(label: str, marker: str, fill: str) -> Line2D:
    look: dict[str, Any] = {"markersize": 9, "markerfacecolor": fill, "markeredgecolor": INK}
    return Line2D([], [], linestyle="", marker=marker, label=label, **look)


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """``stem``.png and ``stem``.svg, the same bytes for the same figure."""
    files = stem.with_suffix(".png"), stem.with_suffix(".svg")
    figure.savefig(files[0], dpi=DOTS_PER_INCH, metadata={"Software": None})
    with matplotlib.rc_context({"svg.hashsalt": "keelnet"}):
        figure.savefig(files[1], metadata={"Date": None, "Creator": "keelnet"})
    return files


def seed_figures(trajectories: Mapping[str, Trajectory]) -> dict[str, Figure]:
    """The pictures of ``keelnet reproduce`` by file name, from the trajectories by experiment."""
    return {
        "figure2_euler": euler_figure(trajectories),
        "figure3_verlet_space": verlet_figure(trajectories, "y_in_R3"),
        "figure3_verlet_plane": verlet_figure(trajectories, "y_in_R2"),
        "misprint": misprint_figure(trajectories),
    }


CLOSE = (-0.72, 0.72, -0.72, 0.72)
NARROW = (-0.56, 0.56, -0.56, 0.56)
WIDE = (-2.8, 2.8, -2.8, 2.8)


def euler_figure(trajectories: Mapping[str, Trajectory]) -> Figure:
    """Fig. 2: (a) the features, (b, c, d) Euler on K₊, K₋, K₀, (e, f) antisymmetric, γ = 0.1."""
    figure = canvas(2, 3)
    start = trajectories["euler_N21/zero"].y[:1]
    phase_plane(figure.axes[0], start, CLOSE, title="(a) initial configuration")
    for axis, (name, title) in zip(figure.axes[1:], EULER_PANELS.items(), strict=True):
        window = WIDE if name == "euler_N21/plus" else CLOSE
        phase_plane(axis, trajectories[name].y, window, experiments()[name].arrows, title)
    add_frame(figure.axes[1], CLOSE)
    add_zoom(figure.axes[2], trajectories["euler_N21/minus"].y)
    figure.suptitle(
        "Explicit Euler, N = 21 layers, h = 0.1, f = tanh.  With γ = 0, (e) and (f) would be"
        " exactly (d): ½(K₊ − K₊ᵀ) = ½(K₋ − K₋ᵀ) = K₀",
        fontsize=11,
    )
    add_legend(figure, "y′ (length ∝ √|y′|)")
    return figure


EULER_PANELS = {
    "euler_N21/plus": "(b) K₊: diverges (wider axes)",
    "euler_N21/minus": "(c) K₋: collapses",
    "euler_N21/zero": "(d) K₀: turns",
    "antisymmetric_N21/plus_gamma_0.1": "(e) ½(K₊ − K₊ᵀ − γI), γ = 0.1",
    "antisymmetric_N21/minus_gamma_0.1": "(f) ½(K₋ − K₋ᵀ − γI), γ = 0.1",
}


def misprint_figure(trajectories: Mapping[str, Trajectory]) -> Figure:
    """Left what the source computed, K − Kᵀ; right what it prints, K + Kᵀ; both with γ = 0."""
    figure = canvas(2, 2, width=8.4)
    for axis, (name, title) in zip(figure.axes, MISPRINT_PANELS.items(), strict=True):
        window = WIDE if name == "misprint_N21/plus" else CLOSE
        phase_plane(axis, trajectories[name].y, window, experiments()[name].arrows, title)
    add_frame(figure.axes[1], CLOSE)
    add_zoom(figure.axes[3], trajectories["misprint_N21/minus"].y)
    figure.suptitle(
        "The antisymmetric matrix and the printed sign: N = 21, h = 0.1, γ = 0", fontsize=11
    )
    add_legend(figure, "y′ (length ∝ √|y′|)")
    return figure


MISPRINT_PANELS = {
    "antisymmetric_N21/plus_gamma_0.0": "½(K₊ − K₊ᵀ): turns",
    "misprint_N21/plus": "as printed, ½(K₊ + K₊ᵀ): diverges (wider axes)",
    "antisymmetric_N21/minus_gamma_0.0": "½(K₋ − K₋ᵀ): turns",
    "misprint_N21/minus": "as printed, ½(K₋ + K₋ᵀ): collapses",
}


def add_frame(axis: Axes, window: Sequence[float]) -> None:
    """A dashed rectangle: what the other panels show."""
    corner, width, height = (window[0], window[2]), window[1] - window[0], window[3] - window[2]
    look: dict[str, Any] = {"linestyle": "--", "edgecolor": INK, "linewidth": 0.9, "zorder": 2}
    axis.add_patch(Rectangle(corner, width, height, fill=False, **look))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
    text = "dashed: window of the other panels"
    axis.text(0.5, 0.03, text, transform=axis.transAxes, fontsize=9, ha="center", bbox=box)


def add_zoom(axis: Axes, y: Array, half: float = 0.045) -> None:
    """The last layers near the origin, |coordinates| ≤ half, in the panel's lower right corner."""
    inset = axis.inset_axes((0.56, 0.03, 0.41, 0.41))
    phase_plane(inset, y, (-half, half, -half, half))
    inset.set(xticks=[], yticks=[], xlabel="", ylabel="")
    factor = (axis.get_xlim()[1] - axis.get_xlim()[0]) / (2 * half) * 0.41
    inset.text(
        0.05, 0.95, f"origin × {factor:.1f}", transform=inset.transAxes, fontsize=9, va="top"
    )


def verlet_figure(trajectories: Mapping[str, Trajectory], reading: str) -> Figure:
    """Fig. 3 in one reading of the kernel, full first kick, one panel a depth.

    y ∈ R³ is drawn in the plane of k₁ and k₂, which are orthogonal: z is moved by the components
    of y in this plane alone, so the arrows, y″ at z = 0, are exact there.
    """
    figure = canvas(2, 3)
    in_space = reading == "y_in_R3"
    basis = _unit_columns(VERLET_KERNEL) if in_space else np.eye(2)
    labels = ("y · k₁ / |k₁|", "y · k₂ / |k₂|") if in_space else COORDINATES
    for axis, depth in zip(figure.axes, VERLET_DEPTHS, strict=True):
        name = f"verlet/N{depth}_full/{reading}"
        rate = _seen_in(basis, experiments()[name].arrows)
        phase_plane(axis, trajectories[name].y @ basis, NARROW, rate, f"N = {depth}", labels)
    kind = "y ∈ R³, z ∈ R², seen in the plane of k₁ and k₂" if in_space else "y ∈ R², z ∈ R³"
    figure.suptitle(
        f"Verlet, full first kick, h = 0.1, f = tanh: {kind}; bold: the last {BOLD} layers",
        fontsize=11,
    )
    add_legend(figure, "y″ at z = 0 (length ∝ √|y″|)")
    return figure


def _unit_columns(values: Sequence[Sequence[float]]) -> Array:
    """The columns, each of length 1."""
    columns = np.array(values, dtype=np.float64)
    return columns / np.linalg.norm(columns, axis=0)


def _seen_in(basis: Array, rate: Rate) -> Rate:
    """The rate at points of the plane spanned by the columns of ``basis``, in its coordinates."""
    return lambda points: rate(points @ basis.T) @ basis
