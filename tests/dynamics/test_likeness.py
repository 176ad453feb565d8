"""Modules that one can run for all: what differs besides the numbers of parameters is named."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from keelnet.dynamics.likeness import require_alike


class Branch(nn.Module):
    """A branch with a setting and a mask."""

    def __init__(self, setting=None, size=3):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.setting = setting
        self.register_buffer("mask", torch.ones(size), persistent=False)


def dropping(p):
    return nn.Sequential(nn.Linear(3, 3), nn.Dropout(p))


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (
            nn.Conv1d(3, 3, 3),
            nn.Conv1d(3, 3, 3, dilation=2),
            r"dilation at the top: \(1,\) and \(2,\)",
        ),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh()), "0: ReLU and Tanh"),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU()), "1: NoneType and ReLU"),
        (nn.Linear(3, 3), nn.Linear(4, 4), "same names and shapes"),
        (nn.Linear(3, 3), nn.Linear(3, 3, bias=False), "same names and shapes"),
        (nn.Linear(3, 3), nn.Linear(3, 3).eval(), "training at the top: True and False"),
        (dropping(0.1), dropping(0.2), "p of 1: 0.1 and 0.2"),
        (Branch(functional.relu), Branch(functional.gelu), "setting at the top: relu and gelu"),
        (Branch(["a", 1]), Branch(["a", 2]), "setting at the top"),
        (Branch(), Branch(torch.ones(1)), "setting at the top: None and Tensor"),
        (Branch(), Branch(size=4), "buffer mask"),
        (Branch(0), Branch(1), r"setting at the top: 0 and 1.*delete an attribute that is a name"),
        (nn.BatchNorm1d(3), nn.BatchNorm1d(3), "running statistics at the top"),
    ],
)
def test_modules_that_differ_are_refused(one, two, message):
    require_alike([one, one] if not isinstance(one, nn.BatchNorm1d) else [one])
    with pytest.raises(ValueError, match=message):
        require_alike([one, two])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Branch(functional.relu),
        lambda: weight_norm(nn.Linear(3, 3)),
        lambda: nn.InstanceNorm1d(3, affine=True),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    ],
)
def test_modules_that_differ_in_numbers_alone_are_alike(make):
    require_alike([make(), make(), make()])


def test_a_buffer_that_is_the_same_is_not_looked_at(monkeypatch):
    one, two = Branch(), Branch()
    two.mask = one.mask
    monkeypatch.setattr(torch, "equal", None)  # of a GPU it would wait for the numbers
    require_alike([one, two])
