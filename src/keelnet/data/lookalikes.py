"""Look-alikes: what has the signal of tumour and is none, so that intensity alone cannot solve the task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from keelnet.data.brain import BrainMaps
from keelnet.data.conventions import EDEMA, ENHANCING, NECROSIS
from keelnet.data.subjects import smooth_noise

Mask = NDArray[np.bool_]
Classes = NDArray[np.uint8]

SWELLING = (5.0, 10.0)  # how far it goes from a ring, least and most, in mm


@dataclass(frozen=True)
class Lookalikes:
    """How many of each are drawn, least and most, and how large they are (diameters in mm).

    gliosis: of edema's size and signal, some with an enhancing rim at the cortex, some with a cavity;
    rings: what a tumour is made of, voxel by voxel, but too small for one (a plaque, an abscess);
    vessels: thin and enhancing; cavities: small, of necrosis' signal; dura: a thin enhancing patch
    at the surface. All stay ``apart`` mm from the tumour.
    """

    gliosis: tuple[int, int] = (4, 8)
    gliosis_size: tuple[float, float] = (12.0, 28.0)
    rings: tuple[int, int] = (3, 7)
    ring_size: tuple[float, float] = (12.0, 18.0)
    vessels: tuple[int, int] = (2, 5)
    cavities: tuple[int, int] = (10, 25)
    cavity_size: tuple[float, float] = (3.0, 9.0)
    dura: float = 0.5
    apart: float = 4.0

    def drawn(self, head: BrainMaps, tumour: Classes, random: np.random.Generator) -> Classes:
        """Their classes on the head's grid; 0 where there is none."""
        voxel = head.voxel_size
        free = head.mask & (ndimage.distance_transform_edt(tumour == 0) * voxel > self.apart)
        mimics = np.zeros_like(tumour)
        for _ in range(random.integers(self.gliosis[0], self.gliosis[1] + 1)):
            self._gliosis(head, free, mimics, random)
        for _ in range(random.integers(self.rings[0], self.rings[1] + 1)):
            self._ring(head, free, mimics, random)
        for _ in range(random.integers(self.cavities[0], self.cavities[1] + 1)):
            size = random.uniform(*self.cavity_size)
            blob, box = _blob(head, free & (head.csf < 0.5), size, 0.15, random)
            mimics[box][blob & free[box]] = NECROSIS
        for _ in range(random.integers(self.vessels[0], self.vessels[1] + 1)):
            self._vessel(head, free, mimics, random)
        if random.random() < self.dura:
            rim = head.mask & (
                ndimage.distance_transform_edt(head.mask) * voxel < max(3.5, 1.5 * voxel)
            )
            blob, box = _blob(head, rim, random.uniform(20, 40), 0.3, random)
            mimics[box][blob & rim[box] & free[box]] = ENHANCING
        return mimics

    def _gliosis(
        self, head: BrainMaps, free: Mask, mimics: Classes, random: np.random.Generator
    ) -> None:
        blob, box = _blob(head, free & (head.wm > 0.6), random.uniform(*self.gliosis_size), 0.35, random)  # fmt: skip
        part = blob & free[box] & (head.csf[box] < 0.5)
        mimics[box][part & (head.wm[box] > 0.3)] = EDEMA
        kind = random.random()
        if kind < 0.3:  # cortex beside it enhances
            beside = ndimage.binary_dilation(part, iterations=1) & free[box]
            mimics[box][beside & (head.gm[box] > 0.6)] = ENHANCING
        elif kind < 0.6:  # a cavity inside
            depth = ndimage.distance_transform_edt(part)
            mimics[box][depth > 0.55 * max(depth.max(), 1)] = NECROSIS

    def _ring(
        self, head: BrainMaps, free: Mask, mimics: Classes, random: np.random.Generator
    ) -> None:
        """A small core, dead inside, enhancing around, patchy as a tumour's is, and swollen white matter about it."""
        voxel = head.voxel_size
        blob, box = _blob(head, free & (head.wm > 0.6), random.uniform(*self.ring_size), 0.2, random, SWELLING[1])  # fmt: skip
        core = blob & free[box] & (head.csf[box] < 0.5)
        away = ndimage.distance_transform_edt(~core) * voxel
        swollen = (away < random.uniform(*SWELLING)) & (head.wm[box] > 0.5) & free[box]
        patches = smooth_noise(core.shape, 6 / voxel, random)
        inside = ndimage.distance_transform_edt(core) * voxel > random.uniform(3, 5)
        mimics[box][swollen] = EDEMA
        mimics[box][core] = ENHANCING
        mimics[box][core & ((inside & (patches < 0.9)) | (patches < -0.9))] = NECROSIS

    def _vessel(
        self, head: BrainMaps, free: Mask, mimics: Classes, random: np.random.Generator
    ) -> None:
        """A walk that turns slowly, one or two voxels thick, begun near CSF."""
        starts = np.argwhere(free & (head.csf > 0.4))
        place = starts[random.integers(len(starts))].astype(float)
        heading = random.standard_normal(3)
        for _ in range(int(random.uniform(15, 40) / head.voxel_size)):
            heading = heading / np.linalg.norm(heading) + 0.35 * random.standard_normal(3)
            place = place + heading / np.linalg.norm(heading)
            at = tuple(np.rint(place).astype(int))
            inside = all(0 <= i < side for i, side in zip(at, free.shape, strict=True))
            if not inside or not free[at]:
                return
            mimics[at] = ENHANCING
            beside = (min(at[0] + 1, free.shape[0] - 1), *at[1:])
            if random.random() < 0.5 and free[beside]:
                mimics[beside] = ENHANCING


def _blob(
    head: BrainMaps,
    allowed: Mask,
    diameter: float,
    rough: float,
    random: np.random.Generator,
    margin: float = 0.0,
) -> tuple[Mask, tuple[slice, ...]]:
    """A rough ball around a random allowed voxel, on a box of its own with so many mm around it."""
    places = np.argwhere(allowed)
    centre = places[random.integers(len(places))]
    half = int(np.ceil((0.5 * diameter * (1 + 2 * rough) + margin) / head.voxel_size)) + 1
    box = tuple(
        slice(max(0, int(c) - half), min(side, int(c) + half + 1))
        for c, side in zip(centre, allowed.shape, strict=True)
    )
    shape = tuple(cut.stop - cut.start for cut in box)
    grids = np.ogrid[tuple(map(slice, shape))]
    squared = sum(
        (grid - (int(c) - cut.start)) ** 2 for grid, c, cut in zip(grids, centre, box, strict=True)
    )
    radius = np.sqrt(squared) * head.voxel_size
    edge = 0.5 * diameter * (1 + rough * smooth_noise(shape, max(diameter / head.voxel_size / 2.5, 2), random))  # fmt: skip
    ball: Mask = radius < edge
    return ball, box
