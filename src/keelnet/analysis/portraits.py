"""Portraits of a block: its spectra on the stability region, and its growth by layer. Figures, nothing on disk."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keelnet.analysis.outlines import outline, scaled
from keelnet.analysis.palette import BLUE, GREEN, VERMILION
from keelnet.analysis.reports import BlockStability
from keelnet.propagation import IMEX, Integrator
from keelnet.propagation.bounds import answered

REGION = "#DCE9F2"


def spectra_figure(block: BlockStability) -> Figure:
    """h λ of every layer that was looked at (h² λ of a method of second order in time) on the region where |R| ≤ 1.

    Raises ValueError for a block without such layers.
    """
    if not block.layers or block.integrator is None:
        raise ValueError(
            f'block {block.name} holds no spectra; ask for them with layers="all" (diagnose: spectra=True)'
        )
    method, h = block.integrator, block.step_size or 1.0
    points = [h**method.time_order * layer.spectrum.eigenvalues for layer in block.layers]
    window = _window(np.concatenate(points), method.time_order == 2)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    _region(axes, method)
    numbers = [layer.layer + 1 for layer in block.layers]
    many = numbers[-1] > numbers[0]
    colours = Normalize(numbers[0], numbers[-1] if many else numbers[0] + 1)
    for number, values in zip(numbers, points, strict=True):
        _spectrum(axes, values, np.full(len(values), number), colours)
    if many:
        bar = figure.colorbar(ScalarMappable(colours, "cividis"), ax=axes, label="layer")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        xlim=window[:2],
        ylim=window[2:],
        xlabel=f"real part of {scaled(method)}",
        ylabel=f"imaginary part of {scaled(method)}",
    )
    axes.set_aspect("equal")
    lost = "" if any(map(len, points)) else "; no eigenvalue converged"
    title = f"{block.name}: {block.method}, h = {h:.3g}\n{block.verdict}{lost}"
    axes.set_title(title, fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=8)
    return figure


def _spectrum(axes: Axes, values: np.ndarray, numbers: np.ndarray, colours: Normalize) -> None:  # type: ignore[type-arg]
    axes.scatter(
        values.real, values.imag, c=numbers, cmap="cividis", norm=colours, s=20,
        edgecolors="white", linewidths=0.4, zorder=4,
    )  # fmt: skip


def _window(points: np.ndarray, second: bool) -> tuple[float, float, float, float]:  # type: ignore[type-arg]
    """Around the points and the most common regions, square."""
    low, high = (-4.4, 0.6) if second else (-2.4, 0.6)
    left = min(low, 1.1 * points.real.min(initial=0.0))
    right = max(high, 1.1 * points.real.max(initial=0.0))
    height = 1.1 * np.abs(points.imag).max(initial=0.0)
    top = max((right - left) / 2, 0.0 if second else 2.4, height)
    spare = (2 * top - (right - left)) / 2
    return left - spare, right + spare, -top, top


def _region(axes: Axes, method: Integrator) -> None:
    """|R| ≤ 1: shaded, and as a thick line where it is no wider than one; of a method that tells its bounds."""
    for draw in (axes.axhline, axes.axvline):
        draw(0, color="0.8", linewidth=0.8, zorder=0.5)
    points = answered(outline, method)
    if points is None or isinstance(method, IMEX):  # whose layers are not decided by λ alone
        return
    if len(points) > 2:
        axes.fill(*points.T, color=REGION, zorder=0)
        label = "|R| ≤ 1: no growth (shaded)"
        axes.plot(*points.T, color=BLUE, linewidth=1.2, zorder=1, label=label)
    else:
        label = "|R| ≤ 1: no growth"
        axes.plot(*points.T, color=BLUE, linewidth=5, alpha=0.4, zorder=1, label=label)


def growth_figure(block: BlockStability) -> Figure:
    """Left: the growth of a perturbation up to each layer. Right: singular values of each layer and max |R(h λ)| (R(h² λ) of a
    method of second order in time, the largest eigenvalue of the layer's map under IMEX).

    Raises ValueError for a block whose layers were not looked at.
    """
    if not block.layers or block.integrator is None:
        raise ValueError(f'block {block.name} holds no layers; ask for them with layers="all"')
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(f"{block.name}: {block.method}, {block.verdict}", fontsize=11)
    whole, single = figure.subplots(1, 2)
    _course(whole, block)
    numbers = [layer.layer + 1 for layer in block.layers]
    mark = "." if len(numbers) > 1 else "o"
    for name, colour, style in (("largest", VERMILION, "-"), ("smallest", BLUE, "--")):
        values = [getattr(layer, name) for layer in block.layers]
        single.plot(
            numbers, values, style, marker=mark, color=colour, label=f"{name} singular value"
        )
    amplification = [layer.amplification for layer in block.layers]
    implicit = isinstance(block.integrator, IMEX)
    label = "largest |eigenvalue|" if implicit else f"max |R({scaled(block.integrator)})|"
    single.plot(numbers, amplification, ":", marker=mark, color=GREEN, label=label)
    single.set(title="Of one layer", xlabel="layer", ylabel="factor")
    for axes in (whole, single):
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    return figure


def _course(axes: Axes, block: BlockStability) -> None:
    course = np.array(block.course)
    layers = np.arange(1, len(course) + 1)
    mark = "o" if len(course) == 1 else ""
    axes.plot(layers, course[:, 0], marker=mark, color=VERMILION, label="largest")
    if np.isfinite(course[:, 1]).any():
        axes.plot(layers, course[:, 1], "--", marker=mark, color=BLUE, label="least")
    if (course[np.isfinite(course)] > 0).all():
        axes.set_yscale("log")
    axes.set(
        title="From the first layer to this one", xlabel="layer", ylabel="growth of a perturbation"
    )
