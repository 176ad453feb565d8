"""Segmenting: from a scan and a trained network to classes in the scan's own space."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from keelnet.analysis.regions import ROUNDING
from keelnet.data.conventions import ENHANCING, NECROSIS, REGIONS
from keelnet.data.prepared import ready
from keelnet.data.resampling import planes
from keelnet.data.scans import Scan
from keelnet.experiments.tiles import OUTSIDE, Tiling, labelled, logits_of
from keelnet.learning.regions import classes_of

_CUBE = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Rules:
    """What is done to a labelled case afterwards; 0 leaves it as it is.

    smallest: connected tumours (by face, edge or corner) of less than so many ml are taken away. empty_et: where
    all that enhances is less than so many ml, it counts as necrosis.
    """

    smallest: float = 0.0
    empty_et: float = 0.0

    def __post_init__(self) -> None:
        for name in ("smallest", "empty_et"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise ValueError(f"{name} must be a number of ml of at least 0, got {value!r}")

    def applied(self, classes: NDArray[np.uint8], voxel_ml: float) -> NDArray[np.uint8]:
        """The classes after both rules, small tumours first."""
        result = classes.copy()
        if self.smallest:
            parts, count = ndimage.label(classes > 0, _CUBE)
            sizes = np.bincount(parts.ravel(), minlength=count + 1) * voxel_ml
            small = sizes < self.smallest * (1 - ROUNDING)
            small[0] = False
            result[small[parts]] = 0
        enhancing = result == ENHANCING
        if self.empty_et and enhancing.sum() * voxel_ml < self.empty_et * (1 - ROUNDING):
            result[enhancing] = NECROSIS
        return result


@dataclass(frozen=True, eq=False)
class Segmenting:
    """A trained network, and how it is used on scans.

    spacing: side in mm of the voxels that it works on; None: the scans' own. mirrored: average the logits
    of the eight mirror images. Memory grows with a tile and with one byte a voxel, not with logits of the
    whole: at the scans' own spacing classes are decided tile by tile, at another one logits on its voxels are
    kept in half precision and brought to the scan's plane by plane. labels: the convention of those that the
    network was trained on, if it is known.
    """

    network: nn.Module
    spacing: float | None = None
    mirrored: bool = False
    rules: Rules = field(default_factory=Rules)
    tiling: Tiling = field(default_factory=Tiling)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    labels: str | None = None

    def classes(self, scan: Scan) -> NDArray[np.uint8]:
        """Classes (right, anterior, superior) in the space of the scan; 0 where all its modalities are."""
        x, box = ready(scan, self.spacing)
        inside = _shape(box)
        if x.shape[1:] == inside:
            found = labelled(self.network, x, self.tiling, self.mirrored, self.device)
        else:
            found = _decided(
                logits_of(self.network, x, self.tiling, self.mirrored, self.device), inside
            )
        classes = np.zeros(scan.x.shape[1:], np.uint8)
        classes[box] = found
        classes[(scan.x == 0).all(0)] = 0
        return self.rules.applied(classes, scan.geometry.voxel_ml)

    def decided(self, scan: Scan, logits: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Classes as `classes` gives them, from what `logits` gave."""
        classes = np.zeros(scan.x.shape[1:], np.uint8)
        for place in range(len(classes)):
            plane = torch.from_numpy(logits[:, place : place + 1].astype(np.float32))
            classes[place] = classes_of(plane[None])[0, 0].numpy()
        classes[(scan.x == 0).all(0)] = 0
        return self.rules.applied(classes, scan.geometry.voxel_ml)

    def logits(self, scan: Scan) -> NDArray[np.float16]:
        """Logits of WT, TC, ET in the space of the scan: what an entropy map is made of."""
        x, box = ready(scan, self.spacing)
        inside = _shape(box)
        found = logits_of(self.network, x, self.tiling, self.mirrored, self.device)
        if found.shape[1:] != inside:
            every = [plane.astype(np.float16) for plane in planes(found, inside)]
            found = np.concatenate(every, axis=1)
        logits = np.full((len(REGIONS), *scan.x.shape[1:]), OUTSIDE, np.float16)
        logits[(slice(None), *box)] = found
        return logits


def _shape(box: tuple[slice, slice, slice]) -> tuple[int, int, int]:
    sides = [cut.stop - cut.start for cut in box]
    return sides[0], sides[1], sides[2]


def _decided(logits: NDArray[np.float16], space: tuple[int, int, int]) -> NDArray[np.uint8]:
    classes = np.zeros(space, np.uint8)
    if logits.shape[0] == 1:  # no tile held brain
        return classes
    for place, plane in enumerate(planes(logits, space)):
        classes[place] = classes_of(torch.from_numpy(plane)[None])[0, 0].numpy()
    return classes
