"""Tumours: synthetic ones, grown on a real brain, with the look-alikes that make them a task."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from keelnet.data.brain import BrainMaps
from keelnet.data.conventions import EDEMA, ENHANCING, NECROSIS
from keelnet.data.growth import Growth
from keelnet.data.lookalikes import Lookalikes
from keelnet.data.subjects import smooth_noise

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Classes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Lesions:
    """classes as in `conventions`; ``mimics`` the same of look-alikes, which are no tumour (0 elsewhere)."""

    classes: Classes
    mimics: Classes


@dataclass(frozen=True)
class Tumours:
    """How tumours are drawn. Hard, the default: far edema, a mixed core, look-alikes; every tumour enhances.

    Easy: no look-alikes, near edema; enhancement or necrosis is missing in some. core_ml: median volume of core
    (enhancing and necrosis). reach: how far edema goes from the core, in mm. two: share of tumours of two foci.
    """

    easy: bool = False
    core_ml: float = 28.0
    spread: float = 0.7
    reach: tuple[float, float] = (15.0, 30.0)
    two: float = 0.2
    lookalikes: Lookalikes = field(default_factory=Lookalikes)

    def drawn(self, head: BrainMaps, random: np.random.Generator) -> Lesions:
        """A tumour in this head, and what looks like one."""
        size = float(
            self.core_ml * np.exp(np.clip(self.spread * random.standard_normal(), -1.6, 1.2))
        )
        classes = np.zeros(head.mask.shape, np.uint8)
        centre = self._place(head, random, head.mask)
        shares = [1.0]
        if random.random() < self.two:
            shares = [0.7, 0.3]
        for share in shares:
            self._grow(head, classes, centre, share * size, random)
            near = (
                np.linalg.norm(np.indices(head.mask.shape).T - centre, axis=-1).T * head.voxel_size
            )
            centre = self._place(head, random, (near > 25) & (near < 60) & (classes == 0))
        mimics = np.zeros_like(classes)
        if not self.easy:
            mimics = self.lookalikes.drawn(head, classes, random)
        return Lesions(classes, mimics)

    def _place(
        self, head: BrainMaps, random: np.random.Generator, allowed: Mask
    ) -> NDArray[np.int64]:
        """A voxel of white matter, not next to the surface."""
        deep = ndimage.distance_transform_edt(head.mask) * head.voxel_size > 12
        places = np.argwhere(deep & allowed & (head.wm > 0.7))
        if len(places) == 0:
            places = np.argwhere(head.wm > 0.7)
        place: NDArray[np.int64] = places[random.integers(len(places))]
        return place

    def _grow(
        self,
        head: BrainMaps,
        classes: Classes,
        centre: NDArray[np.int64],
        ml: float,
        random: np.random.Generator,
    ) -> None:
        voxel = head.voxel_size
        radius = int(np.ceil((1.3 * (ml * 240) ** (1 / 3) + self.reach[1] + 15) / voxel))
        box = tuple(
            slice(max(0, int(c) - radius), min(side, int(c) + radius + 1))
            for c, side in zip(centre, head.mask.shape, strict=True)
        )
        gm, wm, shape = head.gm[box], head.wm[box], head.gm[box].shape
        at = [int(c) - cut.start for c, cut in zip(centre, box, strict=True)]
        squared = sum(
            (grid - place) ** 2
            for grid, place in zip(np.ogrid[tuple(map(slice, shape))], at, strict=True)
        )
        seed = np.exp(-squared * voxel**2 / 18).astype(np.float32)
        growth = Growth(random.uniform(0.15, 0.3), random.uniform(0.03, 0.06))
        cells = growth.grown(gm, wm, seed, voxel, ml)
        rough = cells + 0.1 * smooth_noise(shape, 8 / voxel, random) * (cells > 0.02)
        found = self._classes(rough, cells, gm, wm, voxel, random)
        kept = classes[box]
        classes[box] = np.where(
            (found > 0) & (head.mask[box]),
            np.maximum(found, np.where(kept == EDEMA, 0, kept)),
            kept,
        )

    def _classes(
        self,
        rough: Field,
        cells: Field,
        gm: Field,
        wm: Field,
        voxel: float,
        random: np.random.Generator,
    ) -> Classes:
        core = _whole(rough > random.uniform(0.55, 0.7))
        dead = rough > random.uniform(0.8, 0.9)
        swollen = (rough > random.uniform(0.05, 0.2)) & (wm > gm)
        if not self.easy:  # along white matter, farther on one side than on another
            reach = random.uniform(*self.reach)
            away = ndimage.distance_transform_edt(~core) * voxel
            uneven = 0.65 + 0.35 * np.tanh(1.5 * smooth_noise(core.shape, 25 / voxel, random))
            swollen |= (away < reach * uneven) & (wm > 0.5)
            patches = smooth_noise(core.shape, 6 / voxel, random)
            dead = np.where(patches > 0.9, False, dead | (core & (patches < -0.9)))
        elif random.random() < 0.2:  # nothing enhances
            dead = np.ones_like(dead)
        elif random.random() < 0.2:  # nothing has died
            dead = np.zeros_like(dead)
        classes = np.zeros(core.shape, np.uint8)
        classes[_whole(swollen | core)] = EDEMA
        classes[core] = ENHANCING
        classes[core & dead] = NECROSIS
        classes[(gm + wm < 0.3) & (cells < 0.3)] = 0
        return classes


def _whole(mask: Mask) -> Mask:
    """The largest connected part."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: Mask = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return largest
