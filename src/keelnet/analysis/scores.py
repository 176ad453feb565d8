"""Scores: how well predictions agree with labels."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of samples or pixels whose largest logit (axis 1) is the label's; nan for bad logits."""
    if logits[:, 0].shape != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} need labels {tuple(logits[:, 0].shape)}, got {tuple(labels.shape)}"
        )
    if not bool(logits.isfinite().all()):
        return float("nan")
    return float((logits.argmax(dim=1) == labels).double().mean())


def dice(predicted: Tensor, labels: Tensor, classes: int) -> list[float]:
    """2 |A ∩ B| / (|A| + |B|) of each class over all pixels together; 1 where both are empty.

    predicted, labels: integers of one shape. Computed by MONAI.
    """
    if predicted.shape != labels.shape:
        raise ValueError(
            f"predicted and labels must have one shape, got {tuple(predicted.shape)} and {tuple(labels.shape)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations on import, none about numbers
        from monai.metrics.meandice import compute_dice
        from monai.networks.utils import one_hot

    def volume(values: Tensor) -> Tensor:
        return one_hot(values.reshape(1, 1, -1), num_classes=classes)

    scores = compute_dice(
        volume(predicted), volume(labels), include_background=True, ignore_empty=False
    )
    return [float(score) for score in scores[0]]


def mean_of(values: list[float]) -> float:
    """The mean of those that are defined."""
    defined = [value for value in values if value == value]
    return float(torch.tensor(defined).mean()) if defined else float("nan")
