"""The objective: regularisers converge with the mesh and appear by name."""

import math

import pytest
import torch

import keelnet as kn
from keelnet.learning.objective import Objective, tikhonov, time_smoothness

FINAL_TIME = 3.0


def wave(knots):
    """θ(t) = sin t on [0, 3], a 1 × 1 weight."""
    times = torch.arange(knots, dtype=torch.float64) * FINAL_TIME / knots
    return kn.Control({"weight": times.sin()[:, None, None]})


@pytest.mark.parametrize(
    ("measure", "integral"),
    [
        (time_smoothness, FINAL_TIME / 4 + math.sin(2 * FINAL_TIME) / 8),  # ½ ∫ cos²
        (tikhonov, FINAL_TIME / 4 - math.sin(2 * FINAL_TIME) / 8),  # ½ ∫ sin²
    ],
)
def test_a_regulariser_converges_with_the_mesh_to_its_integral(measure, integral):
    errors = [abs(measure(wave(knots), FINAL_TIME).item() - integral) for knots in (50, 100, 200)]
    assert errors[2] < 0.02 * integral
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


def test_refinement_leaves_the_smoothness_exactly_unchanged():
    control = kn.Control({"weight": torch.randn(7, 2, 2, dtype=torch.float64)})
    torch.testing.assert_close(
        time_smoothness(control.refined(2), FINAL_TIME), time_smoothness(control, FINAL_TIME)
    )


def test_terms_have_names_and_weights():
    network = kn.architectures.hamiltonian(2, 3, width=4, depth=5)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value))
    logits, labels = network(torch.randn(6, 2)), torch.tensor([0, 1, 2, 0, 1, 2])
    assert set(Objective().terms(network, logits, labels)) == {"loss"}
    terms = Objective(smoothness=2.0, tikhonov=3.0).terms(network, logits, labels)
    (block,) = [stage for stage in network.stages if isinstance(stage, kn.Block)]
    torch.testing.assert_close(terms["smoothness"], 2 * time_smoothness(block.control, 1.0))
    torch.testing.assert_close(terms["tikhonov"], 3 * tikhonov(block.control, 1.0))


@pytest.mark.parametrize("name", ["smoothness", "tikhonov"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_negative_weight_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0"):
        Objective(**{name: value})
