"""The product of the layers' Jacobians is the derivative of the path, whatever its features and however it grows."""

import math

import numpy as np
import pytest
import torch
from problems import exact_growth
from torch import nn

import keelnet as kn
from keelnet.analysis.courses import course_of, sampled
from keelnet.analysis.growths import growth_by_layer
from keelnet.analysis.path import Path
from keelnet.dynamics import Field, Slot


def blocks():
    torch.manual_seed(0)
    dense, conv = kn.DenseKernel(3), kn.ConvKernel(2, dim=1, stencil=3)
    branch = kn.ModuleField(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    found = {
        "euler": kn.Block(kn.Euler(), kn.SingleField(dense), 5),
        "verlet": kn.Block(kn.Verlet(), kn.HamiltonianField(dense), 5),
        "leapfrog": kn.Block(kn.Leapfrog("half"), kn.SymmetricField(dense), 5),
        "midpoint": kn.Block(kn.Midpoint(), kn.AntisymmetricField(dense), 5),
        "rk4": kn.Block(kn.RK4(), kn.SingleField(dense), 5),
        "conv": kn.Block(kn.Verlet(), kn.HamiltonianField(conv), 5),
        "module": kn.Block(kn.Verlet(), branch, 5),
    }
    return {name: block.double() for name, block in found.items()}


@pytest.mark.parametrize("name", blocks())
@pytest.mark.parametrize("split", [False, True])
def test_the_last_of_a_course_is_the_derivative_of_the_block(name, split):
    block = blocks()[name]
    if split and not isinstance(block.integrator, kn.Verlet):
        return
    channels = (2, 4) if name == "conv" else (3,)
    y = torch.randn(1, channels[0] * (1 + split), *channels[1:], dtype=torch.float64)
    with kn.engine("reference"):
        jacobian = torch.autograd.functional.jacobian(lambda y: block(y[None])[0], y[0])
    exact = torch.linalg.svdvals(jacobian.reshape(y.numel(), y.numel()))
    found = growth_by_layer(Path.of(block, y), y)
    assert found.shape == (5, 2)
    np.testing.assert_allclose(found[-1], [exact[0], exact[-1]], rtol=1e-9)


@pytest.mark.parametrize("most", [2, 7, 400])
def test_a_course_goes_on_past_what_a_float_can_hold(most):
    field = kn.SingleField(kn.DenseKernel(2), "identity")
    weight = torch.diag(torch.tensor([999.0, -1.1], dtype=torch.float64)).expand(300, 2, 2)
    block = kn.Block(kn.Euler(), field, 300, 300.0, kn.Control({"weight": weight})).double()
    path = Path.of(block, torch.zeros(1, 2, dtype=torch.float64))
    states = (torch.zeros(301, 1, 2, dtype=torch.float64),)
    layers = sampled(300, most)
    assert layers[0] == 0 and layers[-1] == 300 and len(layers) <= most
    found = course_of(path, states, layers)
    np.testing.assert_allclose(found.largest[:, 0], 3.0 * layers, rtol=1e-9, atol=1e-9)
    assert math.isfinite(found.smallest.min())


class Quickening(kn.Euler):
    """Its step grows with the layer."""

    def step(self, field, state, theta, h, layer):
        return super().step(field, state, theta, (1 + layer) * h, layer)


class Implicit(kn.Euler):
    """The implicit midpoint rule, by iterations that read their residual."""

    def step(self, field, state, theta, h, layer):
        (y,) = new = state
        for _ in range(100):
            before, new = new, super().step(field, (0.5 * (y + new[0]),), theta, h, layer)
            new = (y + new[0] - 0.5 * (y + before[0]),)
            if float((new[0] - before[0]).detach().abs().max()) < 1e-13:
                break
        return new


class Swapped(Field):
    """q' = a p, p' = −a tanh q: the channels by their axis."""

    channel_axis = 1

    def theta_shapes(self):
        return {"a": Slot((4,), initial=torch.ones(4))}

    def parts(self, y0):
        return (y0,)

    def rate(self, y, theta):
        q, p = y.chunk(2, dim=1)
        return torch.cat([p, -q.tanh()], dim=1) * theta["a"]


class Descending(Swapped):
    """y' = −∂/∂y log cosh(a y), by autograd."""

    def rate(self, y, theta):
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            potential = (theta["a"] * y).cosh().log().sum()
            return -torch.autograd.grad(potential, y, create_graph=True)[0]


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (Quickening(), kn.SingleField(kn.DenseKernel(4))),
        (Implicit(), kn.SingleField(kn.DenseKernel(4))),
        (kn.Euler(), Swapped()),
        (kn.Verlet(), kn.ModuleField(nn.Linear(4, 4))),
        (kn.Euler(), Descending()),
    ],
    ids=["layer", "residual", "axis", "module", "autograd"],
)
def test_a_course_of_what_is_one_s_own_ends_at_the_growth_of_the_block(method, field):
    torch.manual_seed(0)
    block = kn.Block(method, field, 4, 1.0).double()
    y = torch.randn(3, 4, dtype=torch.float64)
    (row,) = kn.analysis.stability(block, y, layers="all").blocks
    exact = exact_growth(block, y)
    assert row.growth == pytest.approx(exact)
    assert row.course[-1][0] == pytest.approx(exact)
