"""Subjects: heads that differ, made from one atlas by a random affine and a smooth warp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from keelnet.data.brain import BrainMaps, brain_maps

Field = NDArray[np.float32]


def smooth_noise(
    shape: tuple[int, ...], spacing: float, random: np.random.Generator, order: int = 3
) -> Field:
    """A smooth field of mean 0 and deviation 1: splines through random numbers up to ``spacing`` voxels apart."""
    coarse = [max(2, round(side / spacing) + 2) for side in shape]
    knots = random.standard_normal(coarse)
    places = [np.linspace(0, c - 1, side) for c, side in zip(coarse, shape, strict=True)]
    field = knots
    for axis, at in enumerate(places):  # a spline is a product of splines along the axes
        field = _along(field, at, axis, order)
    field = field - field.mean()
    smooth: Field = (field / max(float(field.std()), 1e-9)).astype(np.float32)
    return smooth


def _along(
    values: NDArray[np.float64], at: NDArray[np.float64], axis: int, order: int
) -> NDArray[np.float64]:
    from scipy.interpolate import make_interp_spline

    known = np.arange(values.shape[axis])
    spline = make_interp_spline(known, values, k=min(order, len(known) - 1), axis=axis)
    found: NDArray[np.float64] = spline(at)
    return found


@dataclass(frozen=True)
class Heads:
    """How much heads differ: rotation in degrees, scale as a fraction, displacement in mm over ``spacing`` mm.

    rotation and scale are the largest along each axis; displacement is the deviation there, cut off at twice that.
    """

    rotation: float = 8.0
    scale: float = 0.08
    displacement: float = 4.0
    spacing: float = 40.0

    def drawn(self, atlas: BrainMaps, random: np.random.Generator) -> BrainMaps:
        """Another head on the atlas' grid; left and right change places in half of them."""
        shape, voxel = atlas.mask.shape, atlas.voxel_size
        matrix = self._matrix(random)
        centre = (np.array(shape) - 1) / 2
        grid = np.indices(shape, dtype=np.float32)
        places = np.tensordot(matrix, grid - centre[:, None, None, None].astype(np.float32), 1)
        for axis in range(3):
            warp = smooth_noise(shape, self.spacing / voxel, random)
            places[axis] += centre[axis] + self.displacement / voxel * np.clip(warp, -2, 2)
        places = places.astype(np.float32)

        def moved(values: Field) -> Field:
            found: Field = ndimage.map_coordinates(values, places, order=1, mode="constant")
            return np.clip(found, 0, 1)

        inside = moved(atlas.mask.astype(np.float32)) > 0.5
        t1 = np.where(inside, np.maximum(moved(atlas.t1), 1e-3), 0).astype(np.float32)
        return brain_maps(t1, moved(atlas.gm), moved(atlas.wm), atlas.affine)

    def _matrix(self, random: np.random.Generator) -> NDArray[np.float32]:
        from scipy.spatial.transform import Rotation

        angles = random.uniform(-self.rotation, self.rotation, 3)
        scales = np.diag(1 + random.uniform(-self.scale, self.scale, 3))
        if random.random() < 0.5:
            scales[0] *= -1
        turned = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        matrix: NDArray[np.float32] = (turned @ scales).astype(np.float32)
        return matrix
