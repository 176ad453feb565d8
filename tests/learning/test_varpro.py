"""Laws of variable projection: the reduced gradient is exact, and the step is that of the reduced problem."""

import pytest
import torch
from problems import randn
from rings import network, rings

import keelnet as kn
from keelnet.learning import ClassifierNewton, LeastSquares, Objective
from keelnet.learning.breakdown import BreakdownError
from keelnet.learning.curvature import Curvature
from keelnet.learning.evaluations import Reduced
from keelnet.learning.objective import CrossEntropy
from keelnet.learning.unknowns import Unknowns

NETWORKS = ["residual", "antisymmetric", "hamiltonian", "double_hamiltonian"]
NETWORKS += ["parabolic", "second_order"]
NEWTON = ClassifierNewton(1e-12)


def reduced(net, objective, x, labels):
    return sum(Reduced(net, objective, NEWTON).terms(x, labels).values())


def settled(net, objective, x, labels):
    """The objective and its gradient at the best classifier, as a step takes them."""
    Reduced(net, objective, NEWTON).settle(x, labels)
    return Curvature(net, objective, Unknowns(net, objective), x, labels)


@pytest.mark.parametrize("loss", [CrossEntropy(), LeastSquares()], ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_reduced_gradient_passes_the_taylor_test(name, loss):
    objective = Objective(loss, 1e-2, 1e-3, 1e-2)
    x, labels = rings().training
    net = network(name)
    here = settled(net, objective, x, labels)
    theta, move = here.unknowns.vector(), randn(len(here.gradient), seed=3)
    errors = []
    for size in (1e-3, 5e-4, 2.5e-4):
        here.unknowns.assign(theta + size * move)
        moved = reduced(net, objective, x, labels)
        errors.append(abs(moved - here.value - size * float(here.gradient @ move)))
    assert 3.4 < errors[0] / errors[1] < 4.6 and 3.4 < errors[1] / errors[2] < 4.6


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_the_reduced_gradient_does_not_depend_on_the_strategy(strategy):
    objective = Objective(classifier_tikhonov=1e-2)
    x, labels = rings().training
    results = [
        settled(network(strategy=each), objective, x, labels) for each in (kn.store_all, strategy)
    ]
    assert results[0].value == pytest.approx(results[1].value, rel=1e-12)
    torch.testing.assert_close(results[0].gradient, results[1].gradient, rtol=1e-8, atol=1e-10)


def test_the_reduced_value_is_below_that_of_any_classifier():
    objective = Objective(classifier_tikhonov=1e-2)
    x, labels = rings().training
    net = network()
    best = reduced(net, objective, x, labels)
    for seed in range(3):
        with torch.no_grad():
            for number, value in enumerate(net.classifier.parameters()):
                value.add_(0.1 * randn(*value.shape, seed=10 * seed + number))
        other = sum(objective.terms(net, net(x), labels).values())
        assert float(other.detach()) > best


def test_a_classifier_without_a_minimum_is_named():
    x, _ = rings().training
    net = network()
    labels = (net.features(x)[:, 0] > 0).long()  # its features separate these
    with pytest.raises(ValueError, match=r"not solved: .* classifier_tikhonov=0 may be too small"):
        Reduced(net, Objective(), ClassifierNewton(1e-13, iterations=8)).settle(x, labels)


def test_a_trial_whose_classifier_cannot_be_found_has_no_value():
    """Dead features: with no weight on W the classifier's system is singular there."""
    x, labels = rings().training
    net = network(activation="relu")
    evaluation = Reduced(net, Objective(), NEWTON)
    with torch.no_grad():
        for value in net.opening.parameters():
            value.zero_()
    assert evaluation.terms(x, labels) == {}
    with pytest.raises(BreakdownError, match="singular"):
        evaluation.settle(x, labels)
