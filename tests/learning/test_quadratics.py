"""Laws of the regularisers' operators: those of the values, and exactly inverted."""

import pytest
import torch
from problems import randn

import keelnet as kn
from keelnet.learning.objective import Objective
from keelnet.learning.quadratics import Quadratic
from keelnet.learning.unknowns import Unknowns
from keelnet.networks import Classifier, Network, SpatialClassifier

CASES = {
    "time": (Quadratic(0.3, ((0, 2.0),), 0.1), (6, 2, 3)),
    "one knot": (Quadratic(0.3, ((0, 2.0),), 0.1), (1, 4)),
    "space": (Quadratic(0.01, ((1, 5.0), (2, 3.0)), 0.5, (2, 4, 3, 2)), (24, 2)),
    "no differences": (Quadratic(0.7), (3, 2)),
    "weight 0": (Quadratic(0.7, ((0, 0.0),)), (3, 2)),
    "damping alone": (Quadratic(0.0, ((0, 1.0),), 0.25), (5, 2)),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@EVERY_CASE
def test_solving_inverts_the_operator(case):
    operator, shape = case
    v = randn(*shape)
    damped = operator.product(v) + 0.2 * operator.mass * v
    torch.testing.assert_close(operator.solved(damped, 0.2), v, rtol=1e-11, atol=1e-12)


@EVERY_CASE
def test_the_operator_and_its_inverse_are_symmetric_and_positive(case):
    operator, shape = case
    v, w = randn(*shape, seed=1), randn(*shape, seed=2)
    for apply in (operator.product, lambda r: operator.solved(r, 0.2)):
        torch.testing.assert_close((w * apply(v)).sum(), (v * apply(w)).sum())
        assert (v * apply(v)).sum() >= 0


def test_constants_alone_have_no_inverse():
    with pytest.raises(ValueError, match="constants are free"):
        Quadratic(0.0, ((0, 1.0),)).solved(randn(4, 2), 0.0)


def network(classifier):
    field = kn.SymmetricField(kn.ConvKernel(2, 2, 3))
    control = kn.Control({"weight": randn(4, 2, 2, 3, 3), "bias": randn(4, 2)})
    block = kn.Block(kn.Euler(), field, 4, 1.5, control)
    return Network(torch.nn.Identity(), [block], classifier).double()


@pytest.mark.parametrize("spatial", [True, False])
def test_the_operators_of_an_objective_are_its_terms(spatial):
    """½ ⟨θ, A θ⟩ is the sum of the regularisers, and A θ its gradient."""
    classifier = SpatialClassifier(2, (3, 4), 3) if spatial else Classifier(2, 3)
    net = network(classifier)
    smoothness = 0.7 if spatial else 0.0
    objective = Objective(
        smoothness=0.3, tikhonov=0.2, classifier_tikhonov=0.5, classifier_smoothness=smoothness
    )
    total = torch.stack([*objective.regularisers(net).values()]).sum()
    unknowns = Unknowns(net, objective)
    theta = unknowns.vector()
    gradient = unknowns.flat(torch.autograd.grad(total, unknowns.parameters, allow_unused=True))
    torch.testing.assert_close(unknowns.curved(0.0)(theta), gradient)
    torch.testing.assert_close(0.5 * theta @ gradient, total.detach())
    damped = unknowns.curved(0.3)(theta)
    torch.testing.assert_close(unknowns.smoothed(0.3)(damped), theta, rtol=1e-10, atol=1e-12)
    assert unknowns.weighed(theta) == pytest.approx(
        float(theta @ (unknowns.curved(1.0)(theta) - gradient))
    )
