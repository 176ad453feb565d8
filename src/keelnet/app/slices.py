"""Slices: one plane of a volume as a picture, with the predicted classes over it."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from keelnet.app.shelf import Entry
from keelnet.data.cases import find_cases
from keelnet.data.conventions import MODALITIES, convention_named
from keelnet.data.scans import read_labels, read_scan
from keelnet.data.volumes import read_geometry
from keelnet.experiments.overlays import PLANES, greys
from keelnet.experiments.pictures import LESIONS

PLANE_NAMES = tuple(plane[0] for plane in PLANES)
SHADES = tuple(tuple(round(255 * part) for part in to_rgb(colour)) for colour in LESIONS)
SIDE = 512  # pixels of the longer side


@dataclass(frozen=True, eq=False)
class Labelled:
    """Classes (right, anterior, superior) of a case, and x (4, the same), or None where its scan is not at hand."""

    classes: NDArray[np.uint8]
    x: NDArray[np.float32] | None
    spacing: tuple[float, float, float]

    def count(self, plane: str) -> int:
        """How many slices there are along a plane's normal."""
        return self.classes.shape[_axes(plane)[0]]

    def fullest(self, plane: str) -> int:
        """The slice with most of what was found, or the middle one."""
        cut = _axes(plane)[0]
        found = (self.classes > 0).sum(axis=tuple(axis for axis in range(3) if axis != cut))
        return int(found.argmax()) if found.any() else self.count(plane) // 2

    def picture(self, plane: str, place: int, modality: str, opacity: float) -> bytes:
        """PNG. Raises ValueError for a slice that there is not."""
        if plane not in PLANE_NAMES or modality not in MODALITIES:
            raise ValueError(f"no plane {plane} or no modality {modality}")
        if not 0 <= place < self.count(plane):
            raise ValueError(f"slice must lie between 0 and {self.count(plane) - 1}, got {place}")
        cut, right, up = _axes(plane)
        labels = np.take(self.classes, place, axis=cut).T[::-1]
        shades = np.repeat(self._grey(cut, place, modality)[..., None], 3, axis=-1)
        share = np.clip(opacity, 0, 1)
        for label, colour in enumerate(SHADES, 1):
            marked = labels == label
            shades[marked] = (1 - share) * shades[marked] + share * np.array(colour)
        width, height = (labels.shape[1] * self.spacing[right], labels.shape[0] * self.spacing[up])
        scale = SIDE / max(width, height)
        image = Image.fromarray(shades.round().astype(np.uint8))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.NEAREST)
        _name_sides(image, plane)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    def _grey(self, cut: int, place: int, modality: str) -> NDArray[np.float64]:
        if self.x is None:
            return np.full(np.take(self.classes, place, axis=cut).T.shape, 40.0)
        volume = self.x[MODALITIES.index(modality)]
        image = np.take(volume, place, axis=cut).T[::-1]
        dark, bright = greys(volume)
        return 255.0 * np.clip((image - dark) / (bright - dark), 0, 1)


def labelled(entry: Entry, case: str, scans: Path | None) -> Labelled:
    """A case of ``keelnet segment``, above its scan where one of that name lies in ``scans``.

    Raises ValueError for a case that is not there, and files that cannot be read or do not fit each other.
    """
    found = entry.labels().get(case)
    if found is None:
        raise ValueError(f"{entry.name} holds no labels of a case {case}")
    return _read(case, found.file, found.version, str(found.about.get("labels")), scans)


@lru_cache(maxsize=3)
def _read(case: str, file: Path, version: str, labels: str, scans: Path | None) -> Labelled:
    """``version`` is there for the cache alone: a file that is written again is read again."""
    geometry, _ = read_geometry(file)
    classes = geometry.towards(convention_named(labels).from_file(read_labels(file)))
    x = _scan_of(case, scans)
    if x is not None and x.shape[1:] != classes.shape:
        raise ValueError(f"the scan {case} has shape {x.shape[1:]}, its labels {classes.shape}")
    return Labelled(classes.astype(np.uint8), x, geometry.spacing)


def _scan_of(case: str, scans: Path | None) -> NDArray[np.float32] | None:
    """Its own labels do not matter, as to ``keelnet segment``, which made those that are shown."""
    if scans is None:
        return None
    try:
        cases = find_cases([scans]).for_prediction().cases
    except ValueError:  # a folder without a case: the labels are shown by themselves
        return None
    for found in cases:
        if found.name == case:
            return read_scan(replace(found, labels=None), None).x
    return None


def _name_sides(image: Image.Image, plane: str) -> None:
    """L and R, or P and A: a reader of scans must not have to guess."""
    *_, left, right = PLANES[PLANE_NAMES.index(plane)]
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=20)
    pen.text((6, image.height // 2), left, fill="white", font=font, anchor="lm")
    pen.text((image.width - 6, image.height // 2), right, fill="white", font=font, anchor="rm")


def _axes(plane: str) -> tuple[int, int, int]:
    """The axis that is cut, those to the right and upwards."""
    _, cut, right, up, *_ = PLANES[PLANE_NAMES.index(plane)]
    return cut, right, up
