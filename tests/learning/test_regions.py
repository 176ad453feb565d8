"""Laws of the region loss: its targets, its value where it is known, and the classes of logits."""

from __future__ import annotations

import math

import pytest
import torch
from problems import randn

from keelnet.data.conventions import REGIONS
from keelnet.learning.regions import classes_of, region_loss, region_targets

CLASSES = torch.tensor([[0, 1, 2, 3, 4]])


def test_targets_are_the_regions():
    wanted = [[label in members for label in CLASSES[0].tolist()] for members in REGIONS.values()]
    assert region_targets(CLASSES)[0].tolist() == wanted


def test_certain_and_right_costs_nothing_and_undecided_costs_what_it_must():
    targets = region_targets(CLASSES).double()
    assert float(region_loss(80 * targets - 40, CLASSES)) < 1e-6
    # At p = 1/2: log 2, and of each region 1 − 2·½n/(½·5 + n).
    dice = [1 - n / (2.5 + n) for n in targets.sum((0, 2)).tolist()]
    expected = math.log(2) + sum(dice) / 3
    assert float(region_loss(torch.zeros(1, 3, 5).double(), CLASSES)) == pytest.approx(expected, abs=1e-4)  # fmt: skip


def test_its_gradient_is_right():
    logits = randn(2, 3, 4, 3).requires_grad_()
    classes = torch.arange(24).reshape(2, 4, 3) % 4
    assert torch.autograd.gradcheck(lambda x: region_loss(x, classes), (logits,))


def test_classes_come_back_from_certain_logits():
    classes = torch.tensor([[0, 1, 2, 3]])
    logits = 2.0 * region_targets(classes) - 1
    assert classes_of(logits).tolist() == classes.tolist()
    only_inside = torch.tensor([[[-1.0], [1.0], [1.0]]])
    assert classes_of(only_inside).tolist() == [[0]]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="WT, TC, ET"):
        region_loss(torch.zeros(1, 4, 5), CLASSES)
