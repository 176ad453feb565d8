"""Pictures of rods: what a network says of the marks at their ends, beside the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.analysis.palette import BLACK, BLUE, ORANGE, VERMILION
from keelnet.experiments.pictures import png

KINDS = (BLACK, BLUE, ORANGE, "#F0E9C0")  # background; by bright ends: none, one, two


def overlay(
    x: Tensor, labels: Tensor, predicted: Tensor, class_names: tuple[str, ...], rows: int = 3
) -> bytes:
    """Image, truth, prediction and errors of the first ``rows`` images.

    x (images, 1, size, size), labels and predicted (images, size, size).
    """
    rows = min(rows, len(x))
    figure = Figure(figsize=(9.6, 2.5 * rows + 0.9), layout="constrained")
    figure.suptitle("Withheld images: how many ends of each rod are bright?")
    grid = figure.subplots(rows, 4, squeeze=False)
    for index, line in enumerate(grid):
        _row(line, x[index, 0].numpy(), labels[index].numpy(), predicted[index].numpy())
        line[0].set_ylabel(f"withheld image {index + 1} of {len(x)}", fontsize=9)
    titles = ("image", "truth", "prediction", "errors on the image")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    patches = [
        Patch(facecolor=colour, edgecolor="0.4", label=name)
        for colour, name in zip(KINDS, class_names, strict=True)
    ]
    patches.append(Patch(facecolor=VERMILION, label="error"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    return png(figure)


def _row(line: NDArray[Any], image: NDArray[Any], truth: NDArray[Any], guess: NDArray[Any]) -> None:
    wrong = truth != guess
    for axes in (line[0], line[3]):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    for axes, values in ((line[1], truth), (line[2], guess)):
        axes.imshow(
            values, cmap=ListedColormap(KINDS), vmin=-0.5, vmax=3.5, interpolation="nearest"
        )
    errors = np.ma.masked_equal(wrong.astype(float), 0)
    line[3].imshow(errors, cmap=ListedColormap([VERMILION]), interpolation="nearest")
    share, beside = float(wrong[truth > 0].mean()), int(wrong[truth == 0].sum())
    line[3].set_xlabel(f"{100 * share:.1f} % of rod pixels, {beside} of background", fontsize=9)
    for axes in line:
        axes.set_xticks([])
        axes.set_yticks([])
