"""Growth: a tumour spreads through a brain by reaction and diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Growth:
    """∂c/∂t = ∇·(D ∇c) + ρ c (1 − c), c the share of tumour cells in [0, 1], no flux into CSF.

    D = ``white`` in white matter, a tenth of it in grey (mm²/day); ``rate`` ρ per day. Explicit
    Euler with dt = 0.9 h²/(6 D), below the h²/(6 D) at which it turns unstable: the bound that the networks
    have too. Ranges of the literature: D 0.02–1.5, ρ 0.002–0.2 (Swanson et al. 2000; Clatz et al. 2005).
    """

    white: float = 0.25
    rate: float = 0.05
    grey_share: float = 0.1

    def grown(
        self, gm: Field, wm: Field, seed: Field, voxel: float, target_ml: float, days: float = 1500
    ) -> Field:
        """c once the part above 0.6 fills ``target_ml`` (checked about every 20 days), or after ``days``.

        gm, wm: shares of tissue on a box; seed: c at the start; voxel: side in mm.
        """
        spread = (self.white * (wm + self.grey_share * gm)).astype(np.float32)
        open_ = (gm + wm) > 0.5
        faces = [_faces(spread, open_, axis) for axis in range(3)]
        step = 0.9 * voxel**2 / (6 * self.white)
        c = np.where(open_, seed, 0).astype(np.float32)
        check = max(1, round(20 / step))
        enough = target_ml * 1000 / voxel**3
        for number in range(round(days / step)):
            c += step * (_divergence(c, faces, voxel) + self.rate * c * (1 - c))
            if number % check == 0 and (c > 0.6).sum() >= enough:
                break
        return c


def _faces(spread: Field, open_: NDArray[np.bool_], axis: int) -> Field:
    """D between neighbours along an axis: their mean, 0 where one of them is CSF."""
    low, high = _pair(axis)
    both = open_[low] & open_[high]
    return np.where(both, 0.5 * (spread[low] + spread[high]), 0).astype(np.float32)


def _divergence(c: Field, faces: list[Field], voxel: float) -> Field:
    total = np.zeros_like(c)
    for axis, face in enumerate(faces):
        low, high = _pair(axis)
        flux = face * (c[high] - c[low]) / voxel**2
        total[low] += flux
        total[high] -= flux
    return total


def _pair(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last and all but the first along an axis."""
    whole = [slice(None)] * 3
    low, high = list(whole), list(whole)
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)
