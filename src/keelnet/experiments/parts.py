"""Parts: what of a recipe's batch is rehearsed, small enough for any machine."""

from __future__ import annotations

import math
from dataclasses import asdict

from keelnet.data.resampling import Space
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.rehearsal import Rehearsal
from keelnet.experiments.spaces import patch_of, tiling_of, unit_of

BRAIN = (174, 214, 168)  # mm, right, anterior, superior, with a margin: few are larger


def smallest_part(recipe: Recipe) -> Rehearsal:
    """A few samples, or of recipes on scans a small cube of each: next to nothing but what every run needs."""
    if not recipe.on_scans:
        few = max(1, recipe.batch // 8)
        return Rehearsal(asdict(recipe), few / recipe.batch, few)
    patch = patch_of(recipe)
    side = min(2 * unit_of(recipe), *patch)
    share = side**3 / math.prod(patch)
    return Rehearsal(asdict(recipe), share, recipe.batch, (side,) * 3, (side,) * 3)


def largest_part(recipe: Recipe, share: float) -> Rehearsal:
    """A part of about this share of the batch: all of it from 1 on, one sample or slab at least.

    Slabs are cut off the patch along its last axis: what torch does depends on the others.
    """
    if not recipe.on_scans:
        batch = max(1, min(recipe.batch, int(share * recipe.batch)))
        return Rehearsal(asdict(recipe), batch / recipe.batch, batch)
    patch, unit = patch_of(recipe), unit_of(recipe)
    length = max(unit, int(min(1.0, share) * patch[2]) // unit * unit)
    share, tile = length / patch[2], tile_of(recipe)
    thin = max(unit, round(tile[2] * share / unit) * unit)
    slab, slice_ = (patch[0], patch[1], length), (tile[0], tile[1], thin)
    return Rehearsal(asdict(recipe), share, recipe.batch, slab, slice_)


def voxels_of(recipe: Recipe) -> int:
    """The most voxels of a scan that the network is shown at once; 0 of recipes on other data."""
    if not recipe.on_scans:
        return 0
    return max(recipe.batch * math.prod(patch_of(recipe)), math.prod(tile_of(recipe)) // 2)


def case_bytes(recipe: Recipe) -> int:
    """Of a prepared case: four modalities of 2 bytes and a class of 1, mapped while it is in use."""
    return 9 * math.prod(brain_of(recipe)) if recipe.on_scans else 0


def tile_of(recipe: Recipe) -> Space:
    """Sides of the largest piece of a brain of this size or a smaller one that validation shows the network at once.

    One that needs two tiles along an axis has smaller ones than one that just needs none.
    """
    tiling = tiling_of(recipe)
    right, anterior, superior = (
        min(own, -(-length // tiling.unit) * tiling.unit)
        for own, length in zip(tiling.side, brain_of(recipe), strict=True)
    )
    return right, anterior, superior


def brain_of(recipe: Recipe) -> Space:
    """Voxels along the axes of a large brain; scans whose own spacing is kept may have voxels of 1 mm."""
    voxel = recipe.spacing or 1.0
    right, anterior, superior = (math.ceil(length / voxel) for length in BRAIN)
    return right, anterior, superior
