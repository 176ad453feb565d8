"""Branches of residual blocks under Verlet and Leapfrog: the same branch, another growth."""

import pytest
import torch
from torch import nn

import keelnet as kn
from keelnet.networks.stabilised import Branch


class Planted(nn.Module):
    """y + rate · y: grows by 1 + rate."""

    def __init__(self, rate):
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.inner.weight.copy_(rate * torch.eye(3))

    def forward(self, y):
        return y + self.inner(y)


def growth(network, y):
    return max(row.growth for row in kn.analysis.stability(network, y).blocks)


def test_the_branch_is_the_block_without_its_skip():
    y = torch.randn(2, 3)
    block = Planted(0.5)
    torch.testing.assert_close(Branch(block)(y), block.inner(y))


@pytest.mark.parametrize(
    ("integrator", "rate"), [(kn.Verlet(), 0.5), (kn.Verlet(), -0.5), (kn.Leapfrog(), -0.5)]
)
def test_a_block_that_grows_by_half_a_layer_is_held(integrator, rate):
    blocks = [Planted(rate) for _ in range(60)]
    plain = growth(kn.stabilised(blocks, kn.Euler()), torch.randn(2, 3))
    assert plain == pytest.approx((1 + rate) ** 60, rel=1e-3)
    assert growth(kn.stabilised(blocks, integrator), torch.randn(2, 3)) < 1.5


def test_a_spectrum_that_is_not_real_is_not_held():
    blocks = [nn.Linear(2, 2, bias=False) for _ in range(60)]
    for each in blocks:
        with torch.no_grad():
            each.weight.copy_(torch.tensor([[0.0, -0.5], [0.5, 0.0]]))
    held = kn.stabilised(blocks, whole=False)
    report = kn.analysis.stability(held, torch.randn(2, 2), layers=1)
    assert report.blocks[0].growth > 1e6 and not report.stable
    assert report.blocks[0].layers[0].amplification > 1.2


def test_parameters_are_copied_a_knot_a_layer_and_gradients_flow():
    blocks = [Planted(0.1), Planted(0.2)]
    held = kn.stabilised(blocks, strategy=kn.reversible)
    (values,) = held.control.values().values()
    assert values.shape == (2, 3, 3) and held.step_size == 1.0
    held(torch.randn(2, 3)).sum().backward()
    assert all(value.grad is not None for value in held.parameters())
    assert blocks[0].inner.weight.grad is None


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "a list of modules"),
        ([3], "a list of modules"),
        ([nn.BatchNorm1d(3), nn.BatchNorm1d(3)], "hold buffers"),
        ([nn.Linear(3, 3), nn.Linear(4, 4)], "same names and shapes"),
    ],
)
def test_blocks_that_cannot_be_stacked_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        kn.stabilised(blocks)
