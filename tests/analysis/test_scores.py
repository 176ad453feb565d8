"""Scores agree with their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from sklearn.metrics import f1_score

from keelnet.analysis.scores import accuracy, dice, mean_of


@given(some.integers(0, 2**31), some.integers(1, 6))
def test_dice_is_the_f1_score_of_each_class(seed, side):
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(0, 3, (2, side, side), generator=generator)
    labels = torch.randint(0, 3, (2, side, side), generator=generator)
    expected = f1_score(
        labels.flatten(),
        predicted.flatten(),
        average=None,
        labels=[0, 1, 2],
        zero_division=1.0,
    )
    assert dice(predicted, labels, 3) == pytest.approx(list(expected), abs=1e-6)


def test_dice_of_a_class_that_is_nowhere_and_nowhere_predicted_is_one():
    assert dice(torch.zeros(4, dtype=int), torch.zeros(4, dtype=int), 2) == [1.0, 1.0]


def test_dice_refuses_other_shapes():
    with pytest.raises(ValueError, match="one shape"):
        dice(torch.zeros(4, dtype=int), torch.zeros(5, dtype=int), 2)


def test_accuracy_counts_pixels():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])  # (1, classes, pixels)
    assert accuracy(logits, torch.tensor([[0, 1]])) == 1.0
    assert accuracy(logits, torch.tensor([[0, 0]])) == 0.5


def test_the_mean_leaves_out_what_is_not_defined():
    assert mean_of([0.5, math.nan, 1.0]) == 0.75
    assert math.isnan(mean_of([math.nan]))
