"""Levels: unstable, marginal or dissipative, by what frozen layers do and by what was measured of all of them."""

from __future__ import annotations

from typing import Literal

from keelnet.analysis.advice import GROWS

Level = Literal["unstable", "marginal", "dissipative"]
# A layer that grows by less than this is lost in the rounding of float32.
TOLERANCE = 1e-6
# A block that grows by more is unstable, whatever its frozen layers say. Non-normal layers alone may reach √(max f' / min f').
GROWN = 1e3


def level(amplification: float, grown: float) -> Level:
    """Of layers whose largest |R(h λ)|, frozen in time, is ``amplification``, and which together let a difference grow so."""
    if amplification > 1 + TOLERANCE or grown > GROWN:
        return "unstable"
    inside = amplification < 1 - TOLERANCE
    return "dissipative" if inside and grown <= 1 + GROWS else "marginal"
