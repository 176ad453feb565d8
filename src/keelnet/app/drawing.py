"""The picture of a scene on paper: the plane, its spectrum, distances and growth. PNG and SVG bytes."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from keelnet.analysis.outlines import outline, scaled
from keelnet.analysis.palette import BLUE, GREEN, OCHRE, ORANGE, PURPLE, SKY, VERMILION
from keelnet.app.message import ARROWS, NEAR, Picture
from keelnet.app.paths import arrows
from keelnet.experiments.figures import field_arrows
from keelnet.experiments.pictures import png as png_bytes

# With a marker each for those who do not see the colours; as on the page.
COLOURS = (BLUE, VERMILION, OCHRE, GREEN, PURPLE, SKY, ORANGE, "#666666")
MARKERS = "os^Dv<>p"


def png(picture: Picture) -> bytes:
    """1500 pixels wide."""
    return png_bytes(drawn(picture))


def svg(picture: Picture) -> bytes:
    """With text as text, so that it can be edited and read out."""
    figure = drawn(picture)
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "keelnet"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def drawn(picture: Picture) -> Figure:
    """Four panels and the verdict."""
    figure = Figure(figsize=(10, 7.4), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(2, 1))
    _plane(figure.add_subplot(grid[:, 0]), picture)
    _spectrum(figure.add_subplot(grid[0, 1]), picture)
    _distances(figure.add_subplot(grid[1, 1]), picture)
    _growth(figure.add_subplot(grid[2, 1]), picture)
    figure.suptitle(picture.verdict.what, fontsize=11, wrap=True)
    return figure


def _plane(axes: Axes, picture: Picture) -> None:
    scene, names = picture.scene, picture.paths.names
    plane = picture.paths.plane(*picture.plane)
    side = (-picture.window, picture.window)
    axes.set(xlim=side, ylim=side, aspect="equal")
    axes.set(xlabel=names[picture.plane[0]], ylabel=names[picture.plane[1]])
    axes.set_title(
        f"{scene.integrator} on the {scene.field.replace('_', ' ')} field, N = {scene.depth}, h = {scene.step_size:g}",
        fontsize=10,
    )
    model = picture.paths.model
    if picture.plane == (0, 1) and arrows(model, np.zeros((1, 2))) is not None:
        field_arrows(axes, lambda points: arrows(model, points)[1], (*side, *side), ARROWS)  # type: ignore[index]
    count = len(scene.features)
    if scene.cloud:
        axes.plot(*plane[:, count:].transpose(2, 0, 1), color="0.5", linewidth=0.4, alpha=0.5)
    for index in range(count):
        colour, marker = _style(index)
        path = plane[:, index]
        axes.plot(*path.T, color=colour, linewidth=1.2 if len(path) <= 300 else 0.6)
        axes.plot(*path[0], marker=marker, markerfacecolor="white", markeredgecolor=colour)
        axes.plot(
            *path[-1],
            marker=marker,
            color=colour,
            markersize=8,
            label=f"feature {index + 1}",
            linestyle="",
        )
    if count:
        axes.legend(
            loc="upper left",
            fontsize=8,
            title="hollow: layer 0; filled: the last",
            title_fontsize=8,
        )


def _spectrum(axes: Axes, picture: Picture) -> None:
    model = picture.paths.model
    edge = outline(model.integrator)
    scale = picture.scene.step_size**model.integrator.time_order
    values = scale * picture.eigenvalues[1][:, 0]
    axes.fill(*edge.T, color=GREEN, alpha=0.25)
    axes.plot(*edge.T, color=GREEN, linewidth=2 if len(edge) == 2 else 1)
    axes.plot(values.real.ravel(), values.imag.ravel(), ".", color="#777777", markersize=3)
    axes.plot(values[0].real, values[0].imag, "X", color=VERMILION, markersize=8)
    axes.set_title(
        f"{scaled(model.integrator)} at layer 0 (×) and later (·);\ngreen: where {type(model.integrator).__name__} does not grow",
        fontsize=8,
    )
    axes.set(xlabel="real", ylabel="imaginary", aspect="equal")
    axes.set_adjustable("datalim")


def _distances(axes: Axes, picture: Picture) -> None:
    for index, ((a, b), values) in enumerate(picture.paths.distances):
        if b >= NEAR:  # its colour is kept, as on the page
            continue
        axes.plot(
            values,
            color=COLOURS[(index + 3) % len(COLOURS)],
            label=f"{a + 1}, {b + 1}",
            linewidth=1,
        )
    of = f"the first {NEAR} features" if len(picture.scene.features) > NEAR else "features"
    axes.set_title(f"distance between {of}", fontsize=9)
    axes.set(xlabel="layer", ylim=(0, None))
    if picture.paths.distances:
        axes.legend(fontsize=7, loc="upper left", framealpha=0.9)


def _growth(axes: Axes, picture: Picture) -> None:
    grown = picture.growth
    for index in range(grown.largest.shape[1]):
        axes.plot(grown.layers, grown.largest[:, index], color=_style(index)[0], linewidth=1)
    axes.set_title("growth of a small difference, log₁₀ σ", fontsize=9)
    axes.set(xlabel="layer")


def _style(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
