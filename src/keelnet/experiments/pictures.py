"""Pictures of runs: training curves, and predictions beside the truth. PNG bytes, nothing on disk."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from keelnet.analysis.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from keelnet.analysis.regions import region_dice
from keelnet.data.conventions import CLASS_NAMES, MODALITIES, REGIONS
from keelnet.data.prepared import Volume

TISSUES = (BLACK, SKY, ORANGE, "#F7F7F2")
LESIONS = (BLUE, GREEN, ORANGE, PURPLE)  # necrosis, edema, enhancing, cavity
LINES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE)


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as PNG, without a date in it."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": "keelnet"})
    return buffer.getvalue()


def curves(title: str, history: list[dict[str, Any]]) -> bytes:
    """Objective (left, logarithmic) and validation scores (right) by epoch; the best epoch is marked."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    figure.suptitle(f"Training of recipe {title}")
    objective, scores = figure.subplots(1, 2)
    _curve_of(objective, history, "terms", "mean over the epoch")
    objective.set_yscale("log")
    objective.set_title("Objective, term by term")
    _curve_of(scores, history, "scores", "score")
    scores.set_title("Validation, larger is better")
    best = [line for line in history if line["best"]][-1]
    scores.axvline(best["epoch"], color="0.5", linestyle=":", linewidth=1.2)
    handles, labels = scores.get_legend_handles_labels()
    handles.append(Line2D([], [], color="0.5", linestyle=":", linewidth=1.2))
    labels.append(f"best: epoch {best['epoch']}")
    scores.legend(handles, labels, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return png(figure)


def _curve_of(axes: Axes, history: list[dict[str, Any]], kind: str, label: str) -> None:
    epochs = [line["epoch"] for line in history]
    styles = ("-", "--", "-.", ":")
    for index, name in enumerate(history[0][kind]):
        values = [np.nan if line[kind].get(name) is None else line[kind][name] for line in history]
        alone = _alone(np.array(values, float))
        axes.plot(
            epochs,
            values,
            label=name.replace("_", " "),
            color=LINES[index % len(LINES)],
            linestyle=styles[index % len(styles)],
            linewidth=2.2 if index == 0 else 1.5,
            marker="o" if alone else None,
            markevery=alone or None,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=True)


def _alone(values: NDArray[np.float64]) -> list[int]:
    """Where a value has no neighbour, as that of a run of one epoch: a line does not show it."""
    shown = np.pad(np.isfinite(values), 1)
    return [int(place) for place in np.flatnonzero(shown[1:-1] & ~shown[:-2] & ~shown[2:])]


def overlay(
    x: Tensor, labels: Tensor, predicted: Tensor, class_names: tuple[str, ...], rows: int = 3
) -> bytes:
    """Image, truth, prediction and errors of ``rows`` slices, spread over those withheld.

    x (slices, 1, right, front), labels and predicted (slices, right, front).
    """
    chosen = np.linspace(0, len(x) - 1, 2 * rows + 1).round().astype(int)[1::2]
    figure = Figure(figsize=(9.6, 3.05 * rows + 0.7), layout="constrained")
    figure.suptitle("Withheld axial slices (front up, the subject's left on the left)")
    grid = figure.subplots(rows, 4, squeeze=False)
    for line, index in zip(grid, chosen, strict=True):
        _row(line, _upright(x[index, 0]), _upright(labels[index]), _upright(predicted[index]))
        line[0].set_ylabel(f"withheld slice {index + 1} of {len(x)}")
    for axes, title in zip(
        grid[0], ("T1 image", "truth", "prediction", "errors on the image"), strict=True
    ):
        axes.set_title(title)
    patches = [
        Patch(facecolor=colour, edgecolor="0.4", label=name)
        for colour, name in zip(TISSUES, class_names, strict=True)
    ]
    patches.append(Patch(facecolor=VERMILION, label="error"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    return png(figure)


def level_shown(x: NDArray[np.floating], *labels: NDArray[np.uint8]) -> int:
    """The axial level where truth and prediction hold most, or the brain of x (4, …) where both are empty."""
    # Of the levels, one that shows the core as well, which is smaller.
    core = REGIONS["TC"]
    weights = sum((each > 0).sum((0, 1)) + 3 * np.isin(each, core).sum((0, 1)) for each in labels)
    if not np.any(weights):
        weights = (x != 0).any(0).sum((0, 1))
    return int(np.argmax(weights))


def _plane(volume: Volume, modality: str, level: int) -> NDArray[np.float32]:
    """An axial level, front up. It lies in every page of its modality's part of the file, so they are let go."""
    plane = np.array(volume.x[MODALITIES.index(modality), :, :, level], np.float32)
    volume.let_go()
    return plane.T[::-1]


def tumours(volumes: Sequence[Volume], found: Sequence[NDArray[np.uint8]]) -> bytes:
    """FLAIR, T1ce, truth and prediction of withheld cases, where truth and prediction hold most, the core above all."""
    figure = Figure(figsize=(9.6, 2.6 * len(volumes) + 0.9), layout="constrained")
    figure.suptitle("Withheld cases (front up, the subject's left on the left)")
    grid = figure.subplots(len(volumes), 4, squeeze=False)
    shown = 0
    for line, volume, classes in zip(grid, volumes, found, strict=True):
        level = level_shown(volume.x, volume.classes, classes)
        flair, enhanced = (_plane(volume, modality, level) for modality in ("flair", "t1ce"))
        for axes, image in zip(line, (flair, enhanced, flair, flair), strict=True):
            dark = float(image.min())  # outside the brain it is 0, its mean: grey
            axes.imshow(np.where(image == 0, dark, image), cmap="gray")
            axes.set_xticks([])
            axes.set_yticks([])
        for axes, labels in ((line[2], volume.classes), (line[3], classes)):
            marked = np.ma.masked_equal(labels[:, :, level].T[::-1], 0)
            axes.imshow(
                marked, cmap=ListedColormap(LESIONS), vmin=1, vmax=4, interpolation="nearest"
            )
        agreed = region_dice(classes > 0, volume.classes > 0)
        shown = max(shown, int(classes.max()), int(volume.classes.max()))
        volume.let_go()
        line[3].set_xlabel(f"whole tumour: Dice {agreed:.2f}", fontsize=9)
        line[0].set_ylabel(volume.name, fontsize=9, parse_math=False)
    for axes, title in zip(grid[0], ("FLAIR", "T1ce", "truth", "prediction"), strict=True):
        axes.set_title(title)
    patches = [
        Patch(facecolor=colour, edgecolor="0.4", label=name)
        for colour, name in zip(LESIONS[:shown], CLASS_NAMES[1 : shown + 1], strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    return png(figure)


def _row(line: NDArray[Any], image: NDArray[Any], truth: NDArray[Any], guess: NDArray[Any]) -> None:
    colours = ListedColormap(TISSUES)
    line[0].imshow(image, cmap="gray", vmin=0)
    for axes, values in ((line[1], truth), (line[2], guess)):
        axes.imshow(values, cmap=colours, vmin=-0.5, vmax=3.5, interpolation="nearest")
    line[3].imshow(image, cmap="gray", vmin=0)
    errors = np.ma.masked_equal((truth != guess).astype(float), 0)
    line[3].imshow(errors, cmap=ListedColormap([VERMILION]), interpolation="nearest")
    share = float((truth != guess)[image > 0].mean())
    line[3].set_xlabel(f"{100 * share:.1f} % of brain pixels", fontsize=9)
    for axes in line:
        axes.set_xticks([])
        axes.set_yticks([])


def _upright(values: Tensor) -> NDArray[Any]:
    """(right, front) to picture rows from front to back; x runs from the subject's left to right."""
    return np.asarray(values.numpy().T[::-1])
