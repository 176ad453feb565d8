"""Grids: files of one case place the same voxels in space, whichever order and direction their axes have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from keelnet.data.volumes import Geometry, Turn

nib: Any = nibabel  # its own types say less than it does

# Files of one case may place its corners apart by this much, in mm: rounding in headers.
TOLERANCE = 0.1
AS_IT_IS: Turn = np.array([[0, 1], [1, 1], [2, 1]], np.float64)


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of a case: that of its first file, and how the axes of each file are turned to lie along its own."""

    geometry: Geometry
    turns: Mapping[Path, Turn]

    def towards(self, path: Path, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """From the order of axes of one of the files to (right, anterior, superior)."""
        return self.geometry.towards(turned(values, self.turns[path]))


def turned(values: NDArray[np.generic], turn: Turn) -> NDArray[np.generic]:
    """Values (3-D) with their axes exchanged and turned."""
    found: NDArray[np.generic] = nib.orientations.apply_orientation(values, turn)
    return found


def turn_between(first: Path, one: Geometry, path: Path, other: Geometry) -> Turn:
    """How the axes of ``path`` are turned to lie along those of ``first``: not at all where both agree as they are.

    Raises ValueError where the two are different grids, however their axes are turned.
    """
    if one.shape == other.shape and one.distance(other) <= TOLERANCE:
        return AS_IT_IS
    turn = other.turn_onto(one)
    if np.isnan(turn).any():  # of axes so oblique to the other's that none lies along one of them
        turn = AS_IT_IS
    alike = other.turned(turn)
    named = path.name if (turn == AS_IT_IS).all() else f"{path.name}, its axes turned alike,"
    if one.shape != alike.shape:
        shapes = ["×".join(map(str, each.shape)) for each in (one, alike)]
        raise ValueError(f"{first.name} has shape {shapes[0]}, {named} {shapes[1]}; register them first")  # fmt: skip
    if (apart := one.distance(alike)) > TOLERANCE:
        raise ValueError(
            f"{first.name} and {named} lie up to {apart:.2f} mm apart (tolerance {TOLERANCE} mm); register them, or"
            " correct the affine of one"
        )
    return turn
