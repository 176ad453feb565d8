"""Rating: labels as somebody draws them, whose edges are not where the tumour ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from keelnet.data.subjects import smooth_noise

Classes = NDArray[np.uint8]


@dataclass(frozen=True)
class Rater:
    """Draws classes(p + d(p)) where the truth is classes(p): d is smooth, of mean 0, and unknown to everyone.

    deviation: of each component of d, in voxels (0: the truth itself); it is cut off at twice that. spacing: of d's
    knots, in voxels. No network can foresee d, so the loss has a floor and Dice a ceiling, as between two readers of
    the same scan.
    """

    deviation: float = 0.3
    spacing: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.deviation <= 2 or self.spacing < 1:
            raise ValueError(
                "a rater's deviation must lie between 0 and 2 voxels and the spacing be at least 1, got"
                f" {self.deviation} and {self.spacing}"
            )

    def drawn(self, classes: Classes, random: np.random.Generator) -> Classes:
        """The labels on the same grid, (right, anterior, superior)."""
        if self.deviation == 0 or not classes.any():
            return classes
        box = tuple(
            slice(max(0, cut.start - 4), cut.stop + 4)
            for cut in ndimage.find_objects((classes > 0).astype(np.uint8))[0]
        )
        truth = classes[box]
        places = np.indices(truth.shape, dtype=np.float32)
        for axis in range(truth.ndim):
            away = smooth_noise(truth.shape, self.spacing, random)
            places[axis] += self.deviation * np.clip(away, -2, 2)
        rated = np.zeros_like(classes)
        rated[box] = ndimage.map_coordinates(truth, places, order=0, mode="constant")
        return rated
