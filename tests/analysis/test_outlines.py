"""The outline of a method's region is where a layer neither adds nor takes."""

from dataclasses import dataclass

import numpy as np
import pytest

import keelnet as kn
from keelnet.analysis.outlines import outline

METHODS = [kn.Euler(), kn.RK4(), kn.Midpoint(), kn.Leapfrog(), kn.Verlet()]


@dataclass(frozen=True)
class Relaxed(kn.Euler):
    """A method of one's own: R(x) = 1 + x / 2."""

    def amplification(self, h, eigenvalues):
        return np.abs(1 + h * eigenvalues / 2)

    def largest_steps(self, eigenvalues):
        return 2 * super().largest_steps(eigenvalues)


@pytest.mark.parametrize("method", [*METHODS, Relaxed()], ids=lambda each: type(each).__name__)
def test_the_outline_is_where_a_layer_neither_adds_nor_takes(method):
    points = outline(method)
    values = points[:, 0] + 1j * points[:, 1]
    np.testing.assert_allclose(method.amplification(1.0, values), 1, atol=1e-7)
    if len(values) > 2:
        middle = values.mean()
        assert np.all(method.amplification(1.0, middle + 1.05 * (values - middle)) > 1)
        np.testing.assert_allclose(values[0], values[-1], atol=1e-7)
    else:
        assert np.all(method.amplification(1.0, 1.05 * values[values != 0]) > 1)


@pytest.mark.parametrize(
    ("method", "ends"),
    [
        (kn.Verlet(), [[0, -2], [0, 2]]),
        (kn.Midpoint(), [[0, -1], [0, 1]]),
        (kn.Leapfrog(), [[-4, 0], [0, 0]]),
    ],
    ids=["Verlet", "Midpoint", "Leapfrog"],
)
def test_segments_are_those_of_the_theory(method, ends):
    np.testing.assert_allclose(outline(method), ends, atol=1e-12)


def test_the_outline_of_euler_is_the_unit_circle_around_minus_one():
    real, imaginary = outline(kn.Euler()).T
    np.testing.assert_allclose(np.hypot(real + 1, imaginary), 1, rtol=1e-12)
