"""Pictures of an evaluation: each case beside its truth, and what all cases have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from keelnet.analysis.palette import BLUE, ORANGE, VERMILION
from keelnet.analysis.regions import region_dice
from keelnet.data.conventions import MODALITIES, REGIONS
from keelnet.data.scans import Scan
from keelnet.experiments.evaluated import Evaluated
from keelnet.experiments.overlays import handles
from keelnet.experiments.pictures import LESIONS, level_shown, png

_COLOURS = dict(zip(REGIONS, (BLUE, ORANGE, VERMILION), strict=True))
_MARKERS = dict(zip(REGIONS, "osD", strict=True))


def case_picture(scan: Scan, classes: NDArray[np.uint8], doubt: NDArray[np.float32]) -> bytes:
    """FLAIR, T1ce, truth, prediction and entropy, axial, where truth and prediction hold most, the core above all."""
    assert scan.classes is not None
    level = level_shown(scan.x, scan.classes, classes)
    flair, enhanced = (scan.x[MODALITIES.index(name), :, :, level].T for name in ("flair", "t1ce"))
    width, height = (scan.geometry.spacing[axis] * scan.x.shape[axis + 1] for axis in (0, 1))
    figure = Figure(figsize=(13.6, 3.0 * height / width * 0.85 + 1.0), layout="constrained")
    line = figure.subplots(1, 5)
    titles = ("FLAIR", "T1ce", "truth", "prediction", "entropy, bits")
    for axes, title in zip(line, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    extent = (0.0, width, 0.0, height)
    for axes, image in zip(line[:4], (flair, enhanced, flair, flair), strict=True):
        axes.imshow(image, cmap="gray", origin="lower", extent=extent)
    for axes, labels in ((line[2], scan.classes), (line[3], classes)):
        marked = np.ma.masked_equal(labels[:, :, level].T, 0)
        axes.imshow(
            marked,
            cmap=ListedColormap(LESIONS),
            vmin=1,
            vmax=4,
            origin="lower",
            extent=extent,
            interpolation="nearest",
        )
    shown = line[4].imshow(
        doubt[:, :, level].T, cmap="cividis", vmin=0, vmax=1, origin="lower", extent=extent
    )
    figure.colorbar(shown, ax=line[4], shrink=0.8)
    scores = ", ".join(
        f"{name} {region_dice(np.isin(classes, parts), np.isin(scan.classes, parts)):.2f}"
        for name, parts in REGIONS.items()
    )
    figure.suptitle(f"{scan.name}: Dice {scores}", fontsize=11, parse_math=False)
    figure.legend(
        handles=handles(classes, scan.classes), loc="outside lower center", ncols=4, frameon=False
    )
    return png(figure, dpi=90)


def dice_picture(done: Sequence[Evaluated]) -> bytes:
    """Dice of every case by region: a dot a case, quartiles as a box."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    random = np.random.default_rng(0)
    for place, name in enumerate(REGIONS):
        values = np.array([each.regions[name].dice for each in done])
        axes.boxplot(values, positions=[place], widths=0.5, showfliers=False, medianprops={"color": "black"})  # fmt: skip
        shift = place + random.uniform(-0.16, 0.16, len(values))
        axes.plot(shift, values, _MARKERS[name], color=_COLOURS[name], alpha=0.75, markersize=5)
    axes.set_xticks(range(len(REGIONS)), ["whole tumour", "core", "enhancing"])
    axes.set_ylabel("Dice")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(f"Dice of {len(done)} cases: dots, median and quartiles")
    return png(figure)


def volume_picture(done: Sequence[Evaluated]) -> bytes:
    """Predicted against true volume of every case and region."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    most = 1.0
    for name in REGIONS:
        true = [each.regions[name].true_ml for each in done]
        predicted = [each.regions[name].predicted_ml for each in done]
        most = max(most, *true, *predicted)
        axes.plot(true, predicted, _MARKERS[name], color=_COLOURS[name], alpha=0.75, label=name)
    axes.plot([0, most], [0, most], color="0.4", linestyle="--", linewidth=1, label="equal")
    axes.set_xlabel("true volume, ml")
    axes.set_ylabel("predicted volume, ml")
    axes.set_title("Volumes")
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)
