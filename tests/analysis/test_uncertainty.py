"""Laws of uncertainty: entropy by its formula, σ_max by a dense Jacobian, edges that turn where they are said to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import keelnet as kn
from keelnet.analysis.uncertainty import entropy, sensitivity
from keelnet.networks.network import blocks_of


@given(st.lists(st.floats(-60, 60), min_size=3, max_size=3))
def test_entropy_is_that_of_the_most_doubtful_region(values):
    logits = np.array(values).reshape(3, 1, 1, 1)
    p = 1 / (1 + np.exp(-np.array(values)))
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -(np.nan_to_num(p * np.log2(p)) + np.nan_to_num((1 - p) * np.log2(1 - p)))
    assert float(entropy(logits)[0, 0, 0]) == pytest.approx(bits.max(), abs=1e-5)


def test_entropy_of_certainty_and_of_a_toss():
    logits = np.array([[0.0], [-65504.0], [65504.0]], np.float16).reshape(3, 1, 1, 1)
    assert float(entropy(logits)[0, 0, 0]) == 1.0
    assert float(entropy(logits[1:])[0, 0, 0]) < 1e-20


@pytest.mark.parametrize("strategy", [kn.reversible, kn.checkpointed, kn.store_all])
def test_growth_is_the_largest_singular_value_under_every_strategy(strategy):
    network = kn.architectures.segmenter(
        2, 3, dim=2, width=(4, 6), depth=2, strategy=strategy, seed=2
    ).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for block in blocks_of(network):
        block.strategy = kn.store_all
    dense = torch.autograd.functional.jacobian(network, x).reshape(3 * 16, 2 * 16)
    for block in blocks_of(network):
        block.strategy = strategy
    found = sensitivity(network, x, iterations=2000)
    largest = float(torch.linalg.matrix_norm(dense, 2))
    assert found.growth <= largest * (1 + 1e-9)
    assert found.growth == pytest.approx(largest, rel=2e-2)
    assert found.converged
    assert all(block.strategy is strategy for block in blocks_of(network))


@pytest.mark.parametrize("around", [torch.device("meta"), torch.inference_mode()])
def test_where_the_caller_stands_changes_nothing(around):
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    x = torch.randn(1, 1, 6, 6)
    expected = sensitivity(network, x)
    with around:
        assert sensitivity(network, x + 0) == expected
    assert expected.flip is not None


def test_a_linear_network_turns_exactly_where_it_is_said_to():
    class Shift(torch.nn.Module):
        def forward(self, x):
            return 2 * x[:, :1] - 1

    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[..., 2:] = 0.75  # logits −1 and ½, a slope of 2: they turn at ½ and ¼
    found = sensitivity(Shift(), x, edges=100)
    assert found.growth == pytest.approx(2.0)
    assert found.flip == pytest.approx((0.5 + 0.25) / 2)
    assert "2 times" in str(found)


def test_without_an_edge_nothing_turns_and_bad_input_is_named():
    class Constant(torch.nn.Module):
        def forward(self, x):
            return x - x.detach() - 1

    x = torch.zeros(1, 1, 4, 4)
    assert sensitivity(Constant(), x).flip is None
    with pytest.raises(ValueError, match="one sample"):
        sensitivity(Constant(), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="iterations must be an integer of at least 1, got 0"):
        sensitivity(Constant(), x, iterations=0)
    with pytest.raises(ValueError, match="finite"):
        sensitivity(Constant(), torch.full((1, 1, 4, 4), torch.nan))


def test_growth_whose_square_is_past_float32_is_a_number():
    network = torch.nn.Conv3d(1, 1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1e21)
    found = sensitivity(network, torch.ones(1, 1, 2, 2, 2))
    assert found.growth == pytest.approx(1e21, rel=1e-5) and found.converged


def test_a_block_within_the_field_of_another_stores_its_states_meanwhile():
    torch.manual_seed(0)
    inner = kn.Block(kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(2)), 3, strategy=kn.reversible)
    outer = kn.Block(kn.Euler(), kn.ModuleField(inner), 2, 0.5).double()
    x = torch.randn(1, 2, dtype=torch.float64)
    dense = torch.autograd.functional.jacobian(
        lambda y: outer.propagated(y, kn.checkpointed), x, strict=False
    ).reshape(2, 2)
    found = sensitivity(outer, x, iterations=200)
    assert found.growth == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-3)
    assert outer.module.strategy is kn.reversible
