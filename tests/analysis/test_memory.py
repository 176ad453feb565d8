"""Saved bytes are counted once a storage, without the parameters."""

import torch
from torch.utils.checkpoint import checkpoint

from keelnet.analysis.memory import saved_bytes


def test_a_product_saves_its_factors_but_not_the_parameter():
    x = torch.randn(10, 8, requires_grad=True)
    weight = torch.randn(8, 8, requires_grad=True)
    assert saved_bytes(lambda: x @ weight) == 4 * (80 + 64)
    assert saved_bytes(lambda: x @ weight, excluded=[weight]) == 4 * 80


def test_a_storage_counts_once():
    x = torch.randn(10, requires_grad=True)
    assert saved_bytes(lambda: x.square() + x.sin() + x.view(2, 5).cos().sum()) == 40


def test_a_chain_counts_every_state():
    x = torch.randn(100, requires_grad=True)

    def chain(depth):
        y = x
        for _ in range(depth):
            y = y.tanh()
        return y

    assert saved_bytes(lambda: chain(7)) == 7 * 400


def test_nothing_is_saved_without_gradient():
    x = torch.randn(10)
    assert saved_bytes(lambda: x.square()) == 0


def test_what_checkpointing_keeps_past_the_hooks_counts():
    x = torch.randn(100, requires_grad=True)

    def segments(count):
        y = x
        for _ in range(count):
            y = checkpoint(lambda x: x.sin().cos().tanh(), y, use_reentrant=False)
        return y

    assert saved_bytes(lambda: segments(5)) == 5 * 400  # the input of each segment


def test_what_is_freed_again_does_not_count():
    x = torch.randn(100)
    assert saved_bytes(lambda: (x + 1).sum() + (x * 2).sum()) == 0
