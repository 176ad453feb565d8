"""Synthetic sets on disk: cases, a contact sheet, and what they are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keelnet.data.conventions import MODALITIES
from keelnet.data.rating import Rater
from keelnet.data.synthetic import (
    LAYOUTS,
    Synthesis,
    SyntheticCase,
    dataset_json,
    write_cases,
)
from keelnet.data.tumours import Tumours
from keelnet.experiments.folders import OutputFolder

SHOWN = 12  # cases on the contact sheet


def synthesise(
    out: Path,
    cases: int,
    seed: int = 0,
    layout: str = "brats2023",
    resolution: int = 2,
    easy: bool = False,
) -> Iterator[str]:
    """Write a set into a new or empty folder; yields each case's name. Nothing remains of a set cut short.

    Raises ValueError for an unknown layout or resolution, and where the folder holds something.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; known are {', '.join(LAYOUTS)}")
    rater = Rater(deviation=0) if easy else Rater()
    synthesis = Synthesis(seed, resolution, tumours=Tumours(easy=easy), rater=rater)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder; choose another")
    with OutputFolder.claim(out, overwrite=False, whole=True) as folder:
        shown: list[Row] = []
        for name, case in write_cases(synthesis, folder.root, cases, layout):
            if len(shown) < SHOWN:
                shown.append(Row.of(name, case))
            yield name
        if layout == "msd":
            folder.write_text("dataset.json", json.dumps(dataset_json(cases), indent=2) + "\n")
        folder.write_bytes("contact_sheet.png", contact_sheet(shown))
        settings = f"seed {seed}, {cases} cases, {resolution} mm, {'easy' if easy else 'hard'}"
        folder.write_text("ABOUT.txt", ABOUT.format(settings=settings))


ABOUT = """Synthetic tumours on a real atlas, made by keelnet ({settings}).

Growth by reaction and diffusion on the ICBM152 2009a symmetric template; no patient's data. A score on
these cases says nothing clinical. The files called mimics mark look-alikes that are no tumour. Hard sets are
labelled as by a reader, whose edges are a fraction of a voxel off; easy ones where the tumour ends.
"""


@dataclass(frozen=True, eq=False)
class Row:
    """What the contact sheet shows of a case: x (4, right, anterior), classes and look-alikes where most tumour is."""

    name: str
    x: NDArray[np.float32]
    classes: NDArray[np.uint8]
    mimics: NDArray[np.uint8]

    @staticmethod
    def of(name: str, case: SyntheticCase) -> Row:
        """Copies, which do not keep the volumes: a case at 1 mm holds 150 MB."""
        classes, mimics = case.lesions.classes, case.lesions.mimics
        level = int(np.argmax((classes > 0).sum((0, 1))))
        return Row(
            name,
            case.x[..., level].copy(),
            classes[..., level].copy(),
            mimics[..., level].copy(),
        )


def contact_sheet(rows: list[Row]) -> bytes:
    """A row a case: the four modalities where most tumour is, and the labels over FLAIR."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.1 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), 5, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, modality, plane in zip(line, MODALITIES, row.x, strict=False):
            axis.imshow(plane.T, cmap="gray", origin="lower")
            axis.set_title(modality, fontsize=8)
        line[4].imshow(row.x[0].T, cmap="gray", origin="lower")
        _overlay(line[4], row)
        line[0].set_ylabel(row.name, fontsize=7)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(
        "Labels: blue necrosis, green edema, orange enhancing; white outline: look-alikes",
        fontsize=9,
    )
    file = io.BytesIO()
    figure.savefig(file, dpi=90)
    return file.getvalue()


def _overlay(axis: object, row: Row) -> None:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

    from keelnet.experiments.pictures import LESIONS

    assert isinstance(axis, Axes)
    classes = row.classes.T
    colours = ListedColormap(LESIONS[:3])
    shown = np.ma.masked_where(classes == 0, classes)
    axis.imshow(shown, cmap=colours, vmin=1, vmax=3, alpha=0.75, origin="lower", interpolation="nearest")  # fmt: skip
    mimics = row.mimics.T > 0
    if mimics.any():
        axis.contour(mimics, levels=[0.5], colors="white", linewidths=0.6)
    axis.set_title("labels", fontsize=8)
