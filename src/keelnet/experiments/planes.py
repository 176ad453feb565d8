"""Pictures of the plane: which class a network sees where, under the points that it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from keelnet.analysis.palette import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from keelnet.data.samples import InMemory
from keelnet.experiments.pictures import png

CLASSES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE)
MARKS = "os^Dv"  # a shape a class too, for those who do not see the colours
SIDE = 300  # points along the longer side of the picture
MARGIN = 0.08  # beyond the outermost points, of the longer side

Classify = Callable[[Tensor], Tensor]


def decisions(classify: Classify, samples: InMemory) -> bytes:
    """Regions by predicted class, with training points (left) and withheld ones (right), errors marked.

    classify: labels (points,) of points (points, 2). Raises ValueError for more than five classes.
    """
    if samples.classes > len(CLASSES):
        raise ValueError(f"decisions shows at most {len(CLASSES)} classes, got {samples.classes}")
    parts = {"training": samples.training, "withheld": samples.validation}
    figure = Figure(figsize=(10, 4.6 * _tallness(samples) + 1.3), layout="constrained")
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (name, (x, labels)) in zip(grid, parts.items(), strict=True):
        _regions(axes, classify, samples)
        wrong = _points(axes, x, labels, classify(x))
        axes.set_title(f"{len(x)} {name} points, {wrong} wrong")
        axes.set_xlabel("first coordinate")
    grid[0].set_ylabel("second coordinate")
    handles: list[Patch | Line2D] = [
        Line2D([], [], color=colour, marker=mark, linestyle="", label=name)
        for colour, mark, name in zip(CLASSES, MARKS, samples.class_names, strict=False)
    ]
    handles.append(Patch(facecolor="0.85", edgecolor="0.6", label="pale: what the network says"))
    handles.append(Line2D([], [], label="wrong", **WRONG))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return png(figure)


WRONG: dict[str, Any] = {
    "marker": "o",
    "linestyle": "",
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markersize": 9,
    "markeredgewidth": 1.5,
}


def _tallness(samples: InMemory) -> float:
    """Height over width of what is shown: axes of equal scales would else run into titles and legend."""
    low, high = _corners(samples)
    width, height = (high - low + 2 * MARGIN * (high - low).max()).tolist()
    return min(height / width, 1.5)


def _corners(samples: InMemory) -> tuple[Tensor, Tensor]:
    every = torch.cat([samples.training[0], samples.validation[0]])
    return every.min(dim=0).values, every.max(dim=0).values


def _regions(axes: Axes, classify: Classify, samples: InMemory) -> None:
    """The plane around all points, coloured by what the network says there."""
    low, high = _corners(samples)
    free = MARGIN * float((high - low).max())
    step = (float((high - low).max()) + 2 * free) / SIDE
    x, y = (
        torch.arange(float(a) - free, float(b) + free, step) for a, b in zip(low, high, strict=True)
    )
    points = torch.cartesian_prod(y, x).flip(1)
    seen = classify(points).reshape(len(y), len(x)).numpy()
    axes.imshow(
        seen,
        extent=(float(x[0]), float(x[-1]), float(y[0]), float(y[-1])),
        origin="lower",
        cmap=ListedColormap([_pale(colour) for colour in CLASSES]),
        vmin=-0.5,
        vmax=len(CLASSES) - 0.5,
        interpolation="nearest",
        aspect="equal",
    )


def _points(axes: Axes, x: Tensor, labels: Tensor, found: Tensor) -> int:
    """Points by true class; how many are wrong, which get a ring."""
    size = 14 if len(x) < 1500 else 5
    for label, (colour, mark) in enumerate(zip(CLASSES, MARKS, strict=True)):
        own = x[labels == label].numpy()
        axes.scatter(own[:, 0], own[:, 1], s=size, c=colour, marker=mark, linewidths=0)
    wrong = x[found != labels].numpy()
    axes.plot(wrong[:, 0], wrong[:, 1], **WRONG)
    return len(wrong)


def _pale(colour: str) -> tuple[float, ...]:
    return tuple(0.68 + 0.32 * np.array(to_rgb(colour)))
