"""Laws of adjoining parts: they are joined without a copy, and nothing else is taken for them."""

from __future__ import annotations

import pytest
import torch
from problems import randn

import keelnet as kn
from keelnet.propagation.engines.adjoining import beside, whole

WIDTHS = [[2, 3], [1, 1], [4, 1], [1, 5, 2]]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (1,)], ids=str)
def test_the_parts_of_a_split_are_joined_in_the_same_memory(widths, shape):
    x = randn(*shape, sum(widths))
    joined = whole(x.split(widths, -1))
    assert joined is not None and torch.equal(joined, x)
    assert joined.data_ptr() == x.data_ptr() and not joined._is_view()


x, wide = randn(7, 5), randn(7, 9)
OTHERS = {
    "one part": [x],
    "another order": [x[:, 2:], x[:, :2]],
    "a gap": [x[:, :2], x[:, 3:]],
    "two tensors": [x[:, :2].clone(), x[:, 2:].clone()],
    "other samples": [x[:-1, :2], x[1:, 2:]],
    "fewer samples": [x[:, :2], x[:-1, 2:]],
    "another type": [x[:, :2], x[:, 2:].view(torch.int64)],
    "first axis last": list(x.T.contiguous().T.split([2, 3], -1)),
    "one zero": [torch.zeros(()).expand(7, 2), torch.zeros(()).expand(7, 2)],
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_parts_are_not_joined(name):
    assert whole(OTHERS[name]) is None


def test_parts_of_longer_samples_lie_beside_one_another_but_are_no_tensor():
    parts = wide[:, :5].split([2, 3], -1)
    assert beside(parts) and whole(parts) is None


def samples(name: str, x: torch.Tensor) -> torch.Tensor:
    """The same numbers, otherwise in memory."""
    if name == "longer samples":
        return torch.cat([x, x + 1], -1)[:, : x.shape[-1]]
    return x.T.contiguous().T


@pytest.mark.parametrize("strategy", [kn.store_all, kn.reversible])
@pytest.mark.parametrize("name", ["longer samples", "first axis last"])
@pytest.mark.parametrize("batch", [1, 5, 200])
def test_what_lies_otherwise_in_memory_gives_the_same_bits(batch, name, strategy):
    """Values and gradients, for the state and for the gradient of the result."""
    field = kn.HamiltonianField(kn.DenseKernel(2, 3))
    y0, weight, costate = randn(batch, 5), randn(4, 2, 3, seed=1), randn(batch, 5, seed=2)
    found = []
    for given, pull in ((y0, costate), (samples(name, y0), samples(name, costate))):
        leaf, controls = given.detach().requires_grad_(), weight.clone().requires_grad_()
        with kn.engine("narrow"):
            plain = kn.propagate(kn.Verlet(), field, given, {"weight": weight}, 0.1, strategy)
            value = kn.propagate(kn.Verlet(), field, leaf, {"weight": controls}, 0.1, strategy)
        grads = torch.autograd.grad(value, [leaf, controls], pull)
        found.append([plain, value.detach(), *grads])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_a_result_in_one_piece_may_be_changed_in_place():
    field = kn.HamiltonianField(kn.DenseKernel(2, 3))
    y0, weight = randn(50, 5), randn(4, 2, 3, seed=1)
    before = y0.clone()
    with kn.engine("narrow"), torch.no_grad():
        value = kn.propagate(kn.Verlet(), field, y0, {"weight": weight}, 0.1)
    wanted = value.clone()
    factor = torch.ones(5, requires_grad=True)
    value += factor
    value.sum().backward()
    assert value.is_contiguous() and torch.equal(value.detach(), wanted + 1)
    assert torch.equal(factor.grad, torch.full((5,), 50.0, dtype=factor.grad.dtype))
    assert torch.equal(y0, before)
