"""The objective: regularisers converge with the mesh and appear by name."""

import math

import pytest
import torch

import keelnet as kn
from keelnet.learning.objective import (
    Objective,
    classifier_tikhonov,
    spatial_smoothness,
    tikhonov,
    time_smoothness,
)
from keelnet.learning.unknowns import Unknowns
from keelnet.networks import Classifier, SpatialClassifier

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


@pytest.mark.parametrize("measure", [time_smoothness, tikhonov])
def test_complex_controls_weigh_what_their_real_and_imaginary_parts_do(measure):
    value = torch.randn(5, 2, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    bent = kn.Control({"weight": value})
    parts = kn.Control({"weight": torch.view_as_real(value)})
    one, other = measure(bent, FINAL_TIME), measure(parts, FINAL_TIME)
    torch.testing.assert_close(one, other)
    (one + other).backward()
    gradient = torch.view_as_real(bent.values()["weight"].grad)
    torch.testing.assert_close(gradient, parts.values()["weight"].grad)


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


def spatial(size):
    """A classifier of one class whose W is sin 2x · cos y on the points (i + ½) / size of the unit square."""
    points = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    classifier = SpatialClassifier(1, (size, size), 1).double()
    image = (2 * points).sin()[:, None] * points.cos()[None]
    with torch.no_grad():
        classifier.linear.weight.copy_(image.reshape(-1, 1))
    return classifier


def squared(wave, factor):
    """∫₀¹ wave(factor · t)² dt."""
    sign = 1 if wave is math.cos else -1
    return 0.5 + sign * math.sin(2 * factor) / (4 * factor)


@pytest.mark.parametrize(
    ("measure", "integral"),
    [
        (classifier_tikhonov, 0.5 * squared(math.sin, 2) * squared(math.cos, 1)),
        (
            spatial_smoothness,
            2 * squared(math.cos, 2) * squared(math.cos, 1)
            + 0.5 * squared(math.sin, 2) * squared(math.sin, 1),
        ),
    ],
)
def test_a_term_of_the_classifier_converges_with_the_pixels_to_its_integral(measure, integral):
    errors = [abs(float(measure(spatial(size)).detach()) - integral) for size in (8, 16, 32)]
    assert errors[2] < 0.05 * integral
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


def test_logits_do_not_depend_on_the_pixels_either():
    """Features that sample a function, on twice the points: the logits converge."""
    values = []
    for size in (16, 32, 64):
        points = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        y = points.exp().expand(1, 1, size, size)
        values.append(float(spatial(size)(y).detach() - spatial(size).linear.bias[0].detach()))
    assert abs(values[2] - values[1]) < 0.3 * abs(values[1] - values[0]) < 0.01


def test_terms_of_the_classifier_have_names_and_weights():
    y, labels = torch.randn(6, 2, 3, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    whole = SpatialClassifier(2, (3, 4), 3)
    objective = Objective(classifier_tikhonov=2.0, classifier_smoothness=3.0)
    terms = objective.terms(whole, whole(y), labels)
    assert [*terms] == ["loss", "classifier_tikhonov", "classifier_smoothness"]
    torch.testing.assert_close(terms["classifier_tikhonov"], 2 * classifier_tikhonov(whole))
    torch.testing.assert_close(terms["classifier_smoothness"], 3 * spatial_smoothness(whole))
    mean = Classifier(2, 3)
    flat = Objective(classifier_tikhonov=2.0).terms(mean, mean(y), labels)
    torch.testing.assert_close(flat["classifier_tikhonov"], mean.linear.weight.square().sum())


def test_terms_of_a_classifier_that_is_not_there_are_refused():
    y, labels = torch.randn(3, 2), torch.tensor([0, 1, 1])
    mean = Classifier(2, 3)
    with pytest.raises(ValueError, match="needs a weight that is an image; Classifier has one"):
        Objective(classifier_smoothness=1.0).terms(mean, mean(y), labels)
    with pytest.raises(ValueError, match="one linear classifier was wanted, Linear has 0"):
        Objective(classifier_tikhonov=1.0).terms(torch.nn.Linear(2, 2), y, labels)


WEIGHTS = ["smoothness", "tikhonov", "classifier_tikhonov", "classifier_smoothness"]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_negative_weight_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0"):
        Objective(**{name: value})


def test_a_block_without_parameters_has_no_regulariser():
    bare = kn.Block(kn.Euler(), kn.ModuleField(torch.nn.Tanh()), 3)
    full = kn.Block(kn.Euler(), kn.AntisymmetricField(kn.DenseKernel(2), "tanh", 0.1), 3)
    objective = Objective(smoothness=1.0, tikhonov=1.0)
    assert objective.regularisers(torch.nn.Sequential(bare)) == {}
    assert objective.regularisers(torch.nn.Sequential(bare, full)) == objective.regularisers(full)
    assert time_smoothness(bare.control, 1.0) == tikhonov(bare.control, 1.0) == 0


def test_the_operators_of_a_shared_control_add_up_to_the_hessian():
    field = kn.HamiltonianField(kn.DenseKernel(2), "tanh")
    block = kn.Block(kn.Verlet(), field, 4, 1.0)
    net = torch.nn.Sequential(block, kn.Block(kn.Verlet(), field, 4, 3.0, block.control)).double()
    objective = Objective(smoothness=0.3, tikhonov=0.7)
    unknowns = Unknowns(net, objective)
    total = torch.stack([*objective.regularisers(net).values()]).sum()
    gradient = torch.autograd.grad(total, unknowns.parameters)
    torch.testing.assert_close(unknowns.curved(0.0)(unknowns.vector()), unknowns.flat(gradient))
