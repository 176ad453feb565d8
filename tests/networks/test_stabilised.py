"""Branches of residual blocks under Verlet and Leapfrog: the same branch, another growth."""

import copy
import pickle
from fractions import Fraction

import numpy as np
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


class Residual(nn.Module):
    """y + a convolution with all that has a mode or a memory."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.Dropout(0.5)

    def forward(self, y):
        return y + self.drop(self.norm(self.conv(y)))


class Masked(nn.Module):
    """y + a linear map of y under a mask that never changes."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("mask", torch.tril(torch.ones(3, 3)))

    def forward(self, y):
        return y + self.inner(y @ self.mask)


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
        (nn.Linear(3, 3), "a list of modules"),
        ([nn.BatchNorm1d(3), nn.BatchNorm1d(3)], "running statistics of block"),
        ([nn.Linear(3, 3), nn.Linear(4, 4)], "same names and shapes"),
        ([nn.Conv1d(3, 3, 1, dilation=d) for d in (1, 2)], r"dilation of block: \(1,\) and \(2,\)"),
        (
            [nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)],
            "block.weight is frozen in layer 2 but not in layer 1",
        ),
    ],
)
def test_blocks_that_cannot_be_stacked_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        kn.stabilised(blocks)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("kind", [np.float32, np.float16, Fraction])
def test_a_step_size_of_any_real_type_is_the_float_that_it_is(kind):
    blocks, y = [Planted(0.1) for _ in range(3)], torch.randn(2, 3)
    held = kn.stabilised(blocks, step_size=kind(0.5))
    assert type(held.final_time) is float
    assert torch.equal(held(y), kn.stabilised(blocks, step_size=0.5)(y))
    with pytest.raises(ValueError, match="step_size must be a finite number above 0, got "):
        kn.stabilised(blocks, step_size=kind(-0.5))


def networks():
    return [nn.Sequential(kn.stabilised([Residual()], kn.Euler())) for _ in range(2)]


def test_evaluation_mode_reaches_the_branch():
    network, y = networks()[0].eval(), torch.randn(4, 2, 5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(network(y), network(y))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_running_statistics_are_saved_and_loaded_with_the_network():
    trained, fresh = networks()
    y = torch.randn(4, 2, 5)
    trained(y)
    assert float(trained[0].module.block.norm.running_mean.abs().max()) > 0
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained.eval()(y), fresh.eval()(y))
    names = {name.rpartition(".")[2] for name, _ in trained.named_buffers()}
    assert {"running_mean", "running_var", "num_batches_tracked"} <= names


def test_a_stabilised_network_changes_type_and_can_be_copied():
    network, y = networks()[0].eval(), torch.randn(4, 2, 5)
    expected = network(y)
    assert torch.equal(copy.deepcopy(network)(y), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(y), expected)
    torch.testing.assert_close(network.double()(y.double()), expected.double())


def test_the_blocks_given_are_left_as_they_were():
    block = Residual()
    before = copy.deepcopy(block.state_dict())
    held = kn.stabilised([block], kn.Euler())
    held(torch.randn(4, 2, 5))
    held.eval()
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert block.training and all(isinstance(each, nn.Parameter) for each in block.parameters())


def test_blocks_with_equal_buffers_are_stacked():
    blocks, y = [Masked(), Masked()], torch.randn(2, 3)
    torch.testing.assert_close(kn.stabilised(blocks, kn.Euler())(y), blocks[1](blocks[0](y)))


def test_frozen_parameters_stay_frozen():
    blocks = [Masked(), Masked()]
    for each in blocks:
        each.inner.bias.requires_grad_(False)
    held = kn.stabilised(blocks)
    frozen = {name: not value.requires_grad for name, value in held.control.values().items()}
    assert frozen == {"block.inner.weight": False, "block.inner.bias": True}


@pytest.mark.parametrize(
    ("block", "y", "message"),
    [
        (nn.Conv2d(4, 1, 1), (2, 4, 5, 5), r"Conv2d turned \(2, 4, 5, 5\) into \(2, 1, 5, 5\)"),
        (nn.GRU(4, 4), (2, 4), "GRU turned .* into a tuple"),
    ],
)
def test_blocks_that_do_not_keep_the_shape_are_refused(block, y, message):
    held = kn.stabilised([block], kn.Euler())
    with pytest.raises(ValueError, match=message):
        held(torch.randn(y))


@pytest.mark.parametrize("tokens", [16, 10])
def test_transformer_blocks_tell_their_axis(tokens):
    layers = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    y = torch.randn(2, tokens, 8)
    with pytest.raises(ValueError, match=r"\(Linear\) reads the last axis .* pass axis=2"):
        kn.stabilised(layers)(y)
    assert kn.stabilised(layers, axis=2)(y).shape == y.shape
