"""Laws of Gauss–Newton products: those of the dense matrix, for every network, strategy and tangent."""

import threading

import pytest
import torch
from problems import randn
from rings import network, rings

import keelnet as kn
from keelnet.learning import (
    CrossEntropy,
    Dice,
    Differences,
    Forward,
    LeastSquares,
    Objective,
    Stored,
    Transposed,
)
from keelnet.learning.breakdown import BreakdownError, is_breakdown
from keelnet.learning.curvature import Curvature
from keelnet.learning.unknowns import Unknowns
from keelnet.networks import Classifier

NETWORKS = ["residual", "antisymmetric", "hamiltonian", "double_hamiltonian"]
NETWORKS += ["parabolic", "second_order"]
OBJECTIVE = Objective(smoothness=1e-2, tikhonov=1e-3, classifier_tikhonov=1e-2)
TANGENTS = [Forward(), Transposed(), Differences(), Stored()]
EVERY_TANGENT = pytest.mark.parametrize("tangent", TANGENTS, ids=repr)


def dense(net, objective, unknowns, x, labels):
    """Jᵀ B J + R built from full Jacobians and Hessians."""
    theta = unknowns.vector()

    def logits(flat):
        with kn.engine("reference"):
            return torch.func.functional_call(net, unknowns.named(flat), (x,))

    for block in kn.networks.network.blocks_of(net):
        block.strategy = kn.store_all
    jacobian = torch.func.jacfwd(logits)(theta).flatten(0, -2)
    value = logits(theta)
    bend = torch.func.hessian(lambda z: objective.loss(z.reshape(value.shape), labels))(
        value.flatten()
    )
    identity = torch.eye(len(theta), dtype=theta.dtype)
    regular = torch.stack([unknowns.curved(0.0)(row) for row in identity])
    return jacobian.T @ bend @ jacobian + regular


def product(here, v):
    """(Jᵀ B J + R) v, as the steps of the solvers take it."""
    return here.of_the_loss(v) + here.unknowns.curved(0.0)(v)


@EVERY_TANGENT
@pytest.mark.parametrize("loss", [CrossEntropy(), LeastSquares()], ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_the_dense_matrix_symmetric_and_positive(name, loss, tangent):
    x, labels = rings(12).training
    net, objective = network(name), Objective(loss, 1e-2, 1e-3, 1e-2)
    unknowns = Unknowns(net, objective)
    here = Curvature(net, objective, unknowns, x, labels, tangent)
    v, w = randn(len(here.gradient), seed=1), randn(len(here.gradient), seed=2)
    found = product(here, v)
    torch.testing.assert_close(w @ found, v @ product(here, w), rtol=1e-8, atol=1e-10)
    assert v @ found > 0
    matrix = dense(network(name), objective, unknowns, x, labels)
    assert (found - matrix @ v).norm() <= 1e-8 * (matrix @ v).norm()


@EVERY_TANGENT
@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_every_strategy_gives_the_same_products_and_gradient(strategy, tangent):
    x, labels = rings(12).training
    results = []
    for chosen in (kn.store_all, strategy):
        net = network(strategy=chosen)
        here = Curvature(net, OBJECTIVE, Unknowns(net, OBJECTIVE), x, labels, tangent)
        results.append((here.gradient, product(here, randn(len(here.gradient)))))
        assert net.stages[0].strategy is chosen
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@EVERY_TANGENT
def test_pixels_have_products_too(tangent):
    net = kn.architectures.hamiltonian(1, 3, dim=2, width=4, depth=2, classifier="pixel").double()
    x, labels = randn(2, 1, 3, 4), torch.arange(24).reshape(2, 3, 4) % 3
    unknowns = Unknowns(net, OBJECTIVE)
    here = Curvature(net, OBJECTIVE, unknowns, x, labels, tangent)
    v = randn(len(here.gradient))
    matrix = dense(net, OBJECTIVE, unknowns, x, labels)
    torch.testing.assert_close(product(here, v), matrix @ v, rtol=1e-7, atol=1e-8)


@EVERY_TANGENT
def test_single_precision_products_are_as_exact_as_it_allows(tangent):
    x, labels = rings(12, dtype=torch.float32).training
    net = network(dtype=torch.float32)
    here = Curvature(net, OBJECTIVE, Unknowns(net, OBJECTIVE), x, labels, tangent)
    v = randn(len(here.gradient), dtype=torch.float32)
    single = product(here, v).double()  # before the parameters change
    unknowns = Unknowns(net.double(), OBJECTIVE)
    here = Curvature(net, OBJECTIVE, unknowns, x.double(), labels, Forward())
    exact = product(here, v.double())
    bound = 3e-3 if tangent == Differences() else 1e-5
    assert (single - exact).norm() <= bound * exact.norm()


def test_the_gradient_of_the_objective_passes_the_taylor_test():
    x, labels = rings().training
    net = network()
    unknowns = Unknowns(net, OBJECTIVE)
    here = Curvature(net, OBJECTIVE, unknowns, x, labels)
    theta, move = unknowns.vector(), randn(len(here.gradient), seed=3)
    errors = []
    for size in (1e-3, 5e-4, 2.5e-4):
        unknowns.assign(theta + size * move)
        value = Curvature(net, OBJECTIVE, unknowns, x, labels).value
        errors.append(abs(value - here.value - size * float(here.gradient @ move)))
    assert 3.5 < errors[0] / errors[1] < 4.5 and 3.5 < errors[1] / errors[2] < 4.5


def test_products_see_the_first_samples_only_where_asked():
    x, labels = rings().training
    net = network()
    unknowns = Unknowns(net, OBJECTIVE)
    some = Curvature(net, OBJECTIVE, unknowns, x, labels, samples=7)
    few = Curvature(net, OBJECTIVE, unknowns, x[:7], labels[:7])
    all_of_them = Curvature(net, OBJECTIVE, unknowns, x, labels)
    v = randn(len(some.gradient))
    torch.testing.assert_close(product(some, v), product(few, v))
    assert torch.equal(some.gradient, all_of_them.gradient)
    assert not torch.allclose(product(some, v), product(all_of_them, v))


def test_a_matrix_that_is_too_large_is_refused():
    x, labels = rings().training
    net = network()
    unknowns = Unknowns(net, OBJECTIVE)
    with pytest.raises(ValueError, match=r"J has 36 rows and \d+ columns, more than 1000 numbers"):
        Curvature(net, OBJECTIVE, unknowns, x, labels, Stored(1000))
    with pytest.raises(ValueError, match="entries"):
        Stored(0)


def test_fixed_and_frozen_parameters_are_no_unknowns():
    net = network()
    net.opening.weight.requires_grad_(False)
    names = Unknowns(net, OBJECTIVE, fixed=net.classifier).names
    assert names == ["opening.bias", "stages.0.control.weight", "stages.0.control.bias"]
    with pytest.raises(ValueError, match="no parameters"):
        Unknowns(Classifier(2, 3).requires_grad_(False), Objective())
    net.stages[0].float()
    with pytest.raises(ValueError, match="share dtype and device"):
        Unknowns(net, OBJECTIVE)


class Beside(torch.nn.Module):
    """A part beside which another thread draws numbers of torch."""

    def forward(self, x):
        other = threading.Thread(target=torch.rand, args=(1,))
        other.start()
        other.join()
        return x


def test_what_another_thread_draws_is_none_of_the_networks():
    x, labels = rings(12).training
    gradients = []
    for beside in (torch.nn.Identity(), Beside()):
        net = network()
        net.opening = torch.nn.Sequential(beside, net.opening)
        here = Curvature(net, OBJECTIVE, Unknowns(net, OBJECTIVE), x, labels)
        gradients.append(here.gradient)
    assert torch.equal(*gradients)


def test_what_has_no_gauss_newton_matrix_is_refused():
    x, labels = rings().training
    net = network()
    with pytest.raises(ValueError, match="convex") as caught:
        Curvature(net, Objective(Dice()), Unknowns(net, OBJECTIVE), x, labels)
    assert not is_breakdown(caught.value)
    with torch.no_grad():
        net.classifier.linear.bias.fill_(float("nan"))
    with pytest.raises(BreakdownError, match="the objective is nan"):
        Curvature(net, OBJECTIVE, Unknowns(net, OBJECTIVE), x, labels)
