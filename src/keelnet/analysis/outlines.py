"""Outlines: the edge of the region in which a method does not grow."""

from __future__ import annotations

from functools import cache

import numpy as np

from keelnet.analysis.singular import Real
from keelnet.propagation import RK4, Integrator

RAYS = 241  # an odd number, so that the negative axis is one of them
FAR = 100.0  # where a region without end is cut


@cache
def outline(method: Integrator) -> Real:
    """The outline of {h λ: |R(h λ)| ≤ 1} as points (P, 2), real and imaginary; two of them where it is a segment.

    Of a method of second order in time it is that of h² λ. A ray from 0 is followed as far as h can grow; the region of RK4 is none of
    rays, and its outline is followed.
    """
    if isinstance(method, RK4):
        return _runge_kutta()
    rays = np.exp(1j * np.linspace(np.pi / 2, 3 * np.pi / 2, RAYS))
    rays[0], rays[RAYS // 2], rays[-1] = 1j, -1, -1j  # without rounding: on these a segment lies
    steps = np.minimum(method.largest_steps(rays), FAR)
    ends = steps**method.time_order * rays
    held = ends[np.abs(ends) > 0]
    points = (
        ends if len(held) > 2 else np.sort_complex(np.append(held, 0) if len(held) < 2 else held)
    )
    return np.stack([points.real, points.imag], axis=1)


def scaled(method: Integrator) -> str:
    """What the region is of, in words: λ times the step size, to the order in time of what the method solves."""
    return "h² λ" if method.time_order == 2 else "h λ"


def _runge_kutta() -> Real:
    """The roots of R(x) = exp(i φ), followed from the origin: the four turns of φ close the outline."""
    x = 0j
    found = []
    for angle in np.linspace(0, 8 * np.pi, 4 * RAYS):
        for _ in range(8):
            value = 1 + x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4))) - np.exp(1j * angle)
            x = x - value / (1 + x * (1 + x / 2 * (1 + x / 3)))
        found.append([x.real, x.imag])
    return np.array(found)
