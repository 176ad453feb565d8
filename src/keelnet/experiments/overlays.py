"""Overlays: a scan in three planes with classes over it. PNG bytes, nothing on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from keelnet.data.conventions import CLASS_NAMES, MODALITIES
from keelnet.data.scans import Scan
from keelnet.experiments.millilitres import shown as shown_ml
from keelnet.experiments.pictures import LESIONS, png

# Name, the axis that is cut through, those shown to the right and upwards, and what they are called.
PLANES = (
    ("axial", 2, 0, 1, "L", "R"),
    ("coronal", 1, 0, 2, "L", "R"),
    ("sagittal", 0, 1, 2, "P", "A"),
)
_BAR = 50.0  # mm


def planes_picture(scan: Scan, classes: NDArray[np.uint8]) -> bytes:
    """FLAIR and T1ce, as they are and with the classes, cut where most tumour is."""
    place = centre_of(scan, classes)
    figure = Figure(figsize=(9.6, 11.4), layout="constrained")
    ml = float((classes > 0).sum()) * scan.geometry.voxel_ml
    total = f"tumour of {shown_ml(ml)}" if classes.any() else "no tumour found"
    figure.suptitle(f"{scan.name}: {total}", parse_math=False)  # a name may hold $
    grid = figure.subplots(4, 3, squeeze=False)
    rows = [("flair", False), ("flair", True), ("t1ce", False), ("t1ce", True)]
    for line, (modality, over) in zip(grid, rows, strict=True):
        volume = scan.x[MODALITIES.index(modality)]
        for axes, plane in zip(line, PLANES, strict=True):
            _plane(axes, volume, classes if over else None, place, scan.geometry.spacing, plane)
        line[0].set_ylabel({"flair": "FLAIR", "t1ce": "T1ce"}[modality] + (" and labels" * over))
    for axes, plane in zip(grid[0], PLANES, strict=True):
        axes.set_title(plane[0])
    figure.legend(handles=handles(classes), loc="outside lower center", ncols=4, frameon=False)
    return png(figure, dpi=100)


def handles(*classes: NDArray[np.uint8]) -> list[Patch]:
    """A legend's entries, for the classes that a network can find and any other that is there."""
    shown = max(3, *(int(each.max(initial=0)) for each in classes))
    return [
        Patch(facecolor=colour, edgecolor="0.4", label=name)
        for colour, name in zip(LESIONS[:shown], CLASS_NAMES[1 : shown + 1], strict=True)
    ]


def centre_of(scan: Scan, classes: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Along each axis the plane that holds most tumour, or the middle of the brain."""
    marked = classes > 0 if classes.any() else (scan.x != 0).any(0)
    found = []
    for axis in range(3):
        counts = marked.sum(tuple(other for other in range(3) if other != axis))
        middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
        found.append(int(np.argmax(counts)) if classes.any() else middle)
    return found[0], found[1], found[2]


def greys(volume: NDArray[np.float32]) -> tuple[float, float]:
    """What is shown black and white: 0 or the least of a volume whose brain has values below it, and all but its brightest."""
    if not volume.any():
        return 0.0, 1.0
    dark = min(0.0, float(volume.min()))
    return dark, max(float(np.percentile(volume[volume != 0], 99.5)), dark + 1e-9)


def _plane(
    axes: Axes,
    volume: NDArray[np.float32],
    classes: NDArray[np.uint8] | None,
    place: tuple[int, int, int],
    spacing: tuple[float, float, float],
    plane: tuple[str, int, int, int, str, str],
) -> None:
    _, cut, right, up, left_name, right_name = plane
    extent = (0, volume.shape[right] * spacing[right], 0, volume.shape[up] * spacing[up])
    image = np.take(volume, place[cut], axis=cut).T
    dark, bright = greys(volume)
    shown: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    axes.imshow(image, cmap="gray", vmin=dark, vmax=bright, **shown)
    if classes is not None:
        labels = np.take(classes, place[cut], axis=cut).T
        marked = np.ma.masked_equal(labels, 0)
        axes.imshow(marked, cmap=ListedColormap(LESIONS), vmin=1, vmax=4, alpha=0.8, **shown)
    axes.set_xticks([])
    axes.set_yticks([])
    sides: dict[str, Any] = {
        "color": "white",
        "fontsize": 9,
        "va": "center",
        "transform": axes.transAxes,
    }
    axes.text(0.02, 0.5, left_name, ha="left", **sides)
    axes.text(0.98, 0.5, right_name, ha="right", **sides)
    if extent[1] > 1.5 * _BAR:
        axes.plot([8, 8 + _BAR], [8, 8], color="white", linewidth=2.5, solid_capstyle="butt")
        axes.text(
            8 + _BAR / 2, 12, f"{_BAR:g} mm", color="white", fontsize=8, ha="center", va="bottom"
        )
