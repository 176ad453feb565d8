"""Blocks: refinement keeps θ(t), and what cannot work is refused in the constructor."""

from itertools import pairwise

import pytest
import torch

import keelnet as kn

FIELD = kn.HamiltonianField(kn.DenseKernel(3))


def test_a_block_is_propagation_under_its_control():
    block = kn.Block(kn.Verlet(), FIELD, depth=5, final_time=2.0)
    y0 = torch.randn(4, 3)
    expected = kn.propagate(kn.Verlet(), FIELD, y0, block.control.at_layers(5), step_size=0.4)
    torch.testing.assert_close(block(y0), expected)


def test_refining_converges_to_the_same_flow():
    block = kn.Block(kn.Verlet("half"), FIELD, depth=8, final_time=2.0).double()
    with torch.no_grad():  # smooth in time, so that the order shows
        times = torch.linspace(0, 1, 9, dtype=torch.float64)[:-1, None, None]
        block.control.get_parameter("weight").mul_(torch.cos(times))
    y0 = torch.randn(4, 3, dtype=torch.float64)
    outputs = []
    for _ in range(6):
        outputs.append(block(y0))
        block = block.refined()
    gaps = [float((a - b).detach().norm()) for a, b in pairwise(outputs)]
    assert all(later < 0.6 * before for before, later in pairwise(gaps))


def test_a_refined_block_keeps_dtype_method_and_time():
    block = kn.Block(kn.Verlet(), FIELD, 3, 2.0, strategy=kn.reversible).double()
    finer = block.refined(3)
    assert (finer.depth, finer.final_time, finer.strategy) == (9, 2.0, kn.reversible)
    assert finer.control.get_parameter("weight").dtype == torch.float64


def test_fewer_knots_than_layers_share_parameters():
    control = kn.Control.random(FIELD, knots=3)
    block = kn.Block(kn.Verlet(), FIELD, depth=30, control=control, strategy=kn.reversible)
    block(torch.randn(4, 3)).sum().backward()
    assert control.get_parameter("weight").grad.shape == (3, 3, 3)


def test_advice_on_damping_comes_once():
    field = kn.AntisymmetricField(kn.DenseKernel(3), damping=0.0)
    block = kn.Block(kn.Euler(), field, depth=10)
    with pytest.warns(kn.StabilityWarning, match="would do"):
        block(torch.randn(4, 3))
    block(torch.randn(4, 3))  # a second warning would be an error here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be an integer of at least 1, got 0"),
        ({"depth": 2.5}, "depth"),
        ({"depth": 3, "final_time": 0.0}, "final_time"),
        ({"depth": 3, "final_time": float("nan")}, "final_time"),
        ({"depth": 3, "integrator": kn.Leapfrog()}, "one part"),
        ({"depth": 3, "integrator": kn.Euler(), "strategy": kn.reversible}, "checkpointed"),
    ],
)
def test_what_cannot_work_is_refused_in_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        kn.Block(**{"integrator": kn.Verlet(), "field": FIELD} | arguments)


def test_a_control_of_another_field_is_refused():
    other = kn.Control.random(kn.HamiltonianField(kn.DenseKernel(4)), knots=3)
    block = kn.Block(kn.Verlet(), FIELD, depth=3, control=other)
    with pytest.raises(ValueError, match="weight must have shape"):
        block(torch.randn(4, 3))
