"""Spaces: the sides of what a recipe's network is shown, which it halves level by level."""

from __future__ import annotations

from keelnet.data.resampling import Space
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.tiles import Tiling


def widths_of(recipe: Recipe) -> tuple[int, ...]:
    """Channels of each level."""
    return (recipe.width,) if isinstance(recipe.width, int) else recipe.width


def unit_of(recipe: Recipe) -> int:
    """What the recipe's network needs the sides of a space to be divisible by."""
    return int(2 ** (len(widths_of(recipe)) - 1 + recipe.folds))


def tiling_of(recipe: Recipe) -> Tiling:
    """The tiles that the recipe's network is shown of a volume."""
    return Tiling(unit=max(8, unit_of(recipe)))


def patch_of(recipe: Recipe) -> Space:
    """Three sides; one number stands for all. Raises ValueError for sides that the recipe's network cannot halve."""
    sides, unit = recipe.patch * 3 if len(recipe.patch) == 1 else recipe.patch, unit_of(recipe)
    if len(sides) != 3 or min(sides) < 1:
        raise ValueError(f"patch needs one side or three, each at least 1, got {recipe.patch}")
    if any(side % unit for side in sides):
        raise ValueError(f"sides of the patch must be divisible by {unit}, got {sides}")
    return sides[0], sides[1], sides[2]
