"""The outline of a method's region is where a layer neither adds nor takes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

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


class Drifting(kn.Integrator):
    """A method of one's own for y'' = f(y), which is no Leapfrog: v ← v + h f(y), y ← y + h v."""

    time_order = 2
    amplification = kn.Leapfrog.amplification
    largest_steps = kn.Leapfrog.largest_steps

    def begin(self, parts):
        return parts[0], torch.zeros_like(parts[0])

    def step(self, field, state, theta, h, layer):
        y, v = state
        v = v + h * field.rate(y, theta)
        return y + h * v, v

    def finish(self, state):
        return state[:1]


def test_a_method_of_second_order_in_time_is_drawn_by_the_square_of_its_step():
    method = Drifting()
    np.testing.assert_allclose(outline(method), outline(kn.Leapfrog()), atol=1e-12)
    field = kn.SymmetricField(kn.DenseKernel(2), "identity")
    control = kn.Control({"weight": torch.eye(2, dtype=torch.float64).expand(4, 2, 2)})
    block = kn.Block(method, field, 4, 2.0, control)
    (row,) = kn.analysis.stability(block, torch.ones(1, 2).double(), layers=1).blocks
    axes = kn.analysis.spectra_figure(row).axes[0]
    assert "h² λ" in axes.get_xlabel() and "h² λ" in axes.get_ylabel()
    points = axes.collections[-1].get_offsets()  # h = ½, λ = −1
    np.testing.assert_allclose(points, [[-0.25, 0], [-0.25, 0]], atol=1e-12)


def test_the_outline_of_euler_is_the_unit_circle_around_minus_one():
    real, imaginary = outline(kn.Euler()).T
    np.testing.assert_allclose(np.hypot(real + 1, imaginary), 1, rtol=1e-12)
