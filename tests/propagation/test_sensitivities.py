"""Laws that training as optimal control rests on: products with J and Jᵀ, and reduced gradients."""

import pytest
import torch
from problems import REVERSIBLE, SCHEMES, leaves_of, randn

import keelnet as kn

H, DEPTH = 0.1, 4
DENSE = {name: SCHEMES[name] for name in REVERSIBLE if not SCHEMES[name].case.space}
EVERY_DENSE = pytest.mark.parametrize("scheme", DENSE.values(), ids=DENSE)
EVERY_STRATEGY = pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])


def pushed(scheme, y0, controls, tangents):
    """J v, v a move of the controls, by forward mode through stored propagation."""

    def final(given):
        return scheme.run(y0, given, H, strategy=kn.store_all)

    return torch.func.jvp(final, (controls,), (tangents,))[1]


def pulled(scheme, y0, controls, costate, strategy):
    """Jᵀ w, flat over all controls, by back-propagation under a strategy."""
    value = scheme.run(y0, controls, H, strategy=strategy)
    gradients = torch.autograd.grad(value, [*controls.values()], costate)
    return torch.cat([gradient.flatten() for gradient in gradients])


def detached(controls):
    return {name: value.detach() for name, value in controls.items()}


def unflattened(vector, controls):
    parts = torch.split(vector, [value.numel() for value in controls.values()])
    return {
        name: part.reshape(value.shape)
        for part, (name, value) in zip(parts, controls.items(), strict=True)
    }


@EVERY_STRATEGY
@EVERY_DENSE
def test_gauss_newton_products_are_symmetric_positive_and_those_of_the_dense_matrix(
    scheme, strategy
):
    y0, controls = leaves_of(scheme, DEPTH)
    y0, frozen = y0.detach(), detached(controls)
    count = sum(value.numel() for value in controls.values())

    def product(v):
        moved = pushed(scheme, y0, frozen, unflattened(v, frozen))
        return pulled(scheme, y0, controls, moved, strategy)

    names = list(frozen)
    jacobians = torch.func.jacrev(lambda given: scheme.run(y0, given, H).flatten())(frozen)
    dense = torch.cat([jacobians[name].flatten(1) for name in names], dim=1)
    v, w = randn(count, seed=1), randn(count, seed=2)
    torch.testing.assert_close(product(v), dense.T @ (dense @ v), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(w @ product(v), v @ product(w), rtol=1e-10, atol=1e-12)
    assert v @ product(v) > 0


@EVERY_STRATEGY
@pytest.mark.parametrize("name", DENSE)
def test_the_reduced_gradient_of_a_least_squares_classifier_passes_the_taylor_test(name, strategy):
    """φ(θ) = min over W of ½ ‖Y(θ) W − L‖² + ½ λ ‖W‖²: its gradient is that at the best W, held fixed."""
    scheme = DENSE[name]
    y0, controls = leaves_of(scheme, DEPTH)
    y0 = y0.detach()
    labels = randn(len(y0), 2, seed=3)

    def best_misfit(y):
        regularised = y.T @ y + 0.1 * torch.eye(y.shape[1], dtype=y.dtype)
        weight = torch.linalg.solve(regularised, y.T @ labels).detach()
        return 0.5 * (y @ weight - labels).square().sum() + 0.05 * weight.square().sum()

    def reduced(given, chosen):
        return best_misfit(scheme.run(y0, given, H, strategy=chosen))

    value = reduced(controls, strategy)
    gradients = torch.autograd.grad(value, [*controls.values()])
    moves = [randn(*control.shape, seed=7) for control in controls.values()]
    slope = sum((g * d).sum() for g, d in zip(gradients, moves, strict=True))
    errors = []
    for size in (1e-3, 5e-4, 2.5e-4):  # small enough for the square to lead
        given = {
            n: c.detach() + size * d for (n, c), d in zip(controls.items(), moves, strict=True)
        }
        errors.append(float((reduced(given, kn.store_all) - value - size * slope).abs().detach()))
    assert errors[0] > 0
    assert 3.4 < errors[0] / errors[1] < 4.6 and 3.4 < errors[1] / errors[2] < 4.6
