"""Laws of the Haar transform: orthonormal, invertible, and its first channels are means."""

from __future__ import annotations

import pytest
import torch
from problems import randn

from keelnet.analysis.memory import saved_bytes
from keelnet.networks.wavelets import Haar

SPACES = {1: (6,), 2: (4, 6), 3: (2, 4, 6)}


@pytest.mark.parametrize("dim", SPACES)
def test_it_keeps_lengths_and_can_be_undone(dim):
    haar, x = Haar(dim), randn(2, 3, *SPACES[dim])
    y = haar(x)
    assert y.shape == (2, 3 * 2**dim, *(side // 2 for side in SPACES[dim]))
    torch.testing.assert_close(y.norm(), x.norm(), rtol=1e-14, atol=0)
    torch.testing.assert_close(haar.inverse(y), x, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(haar(haar.inverse(y)), y, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dim", SPACES)
def test_a_constant_has_no_differences(dim):
    y = Haar(dim)(torch.full((1, 2, *SPACES[dim]), 3.0, dtype=torch.float64))
    assert torch.allclose(y[:, :2], torch.tensor(3.0 * 2 ** (dim / 2), dtype=torch.float64))
    assert float(y[:, 2:].abs().max()) < 1e-14  # some processors round products differently


def test_memory_does_not_grow_with_what_passes_through():
    """Images need no gradient, logits come back by the inverse: of neither anything is kept but the matrix."""
    haar, y = Haar(3), randn(1, 16, 4, 4, 4).requires_grad_()
    assert saved_bytes(lambda: haar(randn(1, 2, 4, 4, 4))) == 0
    kept = saved_bytes(lambda: haar.inverse(y))
    assert kept == saved_bytes(lambda: haar.inverse(y.repeat(2, 1, 1, 1, 1))) == 8 * 16**2


@pytest.mark.parametrize("dim", SPACES)
def test_its_gradient_is_its_inverse(dim):
    haar, x = Haar(dim), randn(1, 2, *SPACES[dim]).requires_grad_()
    y = haar(x)
    g = randn(*y.shape, seed=1)
    (pulled,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(pulled, haar.inverse(g))


def test_what_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="even sides"):
        Haar(2)(torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="multiple of 4"):
        Haar(2).inverse(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="2 space axes"):
        Haar(2)(torch.zeros(1, 1, 4))


@pytest.mark.parametrize(
    "without", [torch.inference_mode, lambda: torch.device("meta")], ids=["inference", "meta"]
)
def test_a_first_use_elsewhere_does_not_spoil_later_training(without):
    channels = {"inference_mode": 5}.get(getattr(without, "__name__", ""), 7)  # of no other test
    haar = Haar(2)
    with without():
        haar(torch.zeros(1, channels, 2, 2, dtype=torch.float64))
    x = randn(1, 4 * channels, 2, 2).requires_grad_()
    haar.inverse(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x)
