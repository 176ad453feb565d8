"""Losses: values that compare logits with labels; the convex ones know their curvature."""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


class ConvexLoss(ABC):
    """A mean over samples (or pixels) that is convex in the logits: what Gauss–Newton needs.

    logits (batch, classes, *space), labels (batch, *space) integers. Raises ValueError for labels
    out of range and shapes that do not fit.
    """

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar."""

    @abstractmethod
    def curvature(self, logits: Tensor, move: Tensor) -> Tensor:
        """H v: the Hessian in the logits times a move of them, in their shape. Symmetric, positive."""

    @abstractmethod
    def steepness(self, logits: Tensor) -> float:
        """A typical diagonal entry of the Hessian of one sample: the scale of a preconditioner."""


@dataclass(frozen=True)
class CrossEntropy(ConvexLoss):
    """−mean log softmax(logits)[label]; Hessian (diag p − p pᵀ) / count with p = softmax(logits)."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        require_labels(logits, labels)
        return functional.cross_entropy(logits, labels.long())

    def curvature(self, logits: Tensor, move: Tensor) -> Tensor:
        p = logits.softmax(dim=1)
        weighted = p * move
        return (weighted - p * weighted.sum(dim=1, keepdim=True)) / _count(logits)

    def steepness(self, logits: Tensor) -> float:
        p = logits.softmax(dim=1)
        return float((p * (1 - p)).mean())


@dataclass(frozen=True)
class LeastSquares(ConvexLoss):
    """The misfit ½ mean ‖logits − e_label‖²; Hessian I / count."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        require_labels(logits, labels)
        targets = functional.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        return (logits - targets).square().sum() / (2 * _count(logits))

    def curvature(self, logits: Tensor, move: Tensor) -> Tensor:
        return move / _count(logits)

    def steepness(self, logits: Tensor) -> float:
        return 1.0


@dataclass(frozen=True)
class Dice:
    """1 − soft Dice of softmax(logits), mean over classes, over the batch together. Not convex. By MONAI."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        require_labels(logits, labels)
        targets = functional.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        value: Tensor = soft_dice()(logits.softmax(dim=1), targets)
        return value


@functools.cache
def soft_dice() -> Any:
    """MONAI's 1 − soft Dice of (batch, classes, *space) shares and targets, over the batch together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations on import, none about numbers
        from monai.losses.dice import DiceLoss
    return DiceLoss(batch=True, smooth_nr=1e-5, smooth_dr=1e-5)


def require_convex(loss: Loss) -> ConvexLoss:
    """The loss, or CrossEntropy for torch's own, whose labels must then all be classes; raises ValueError for any other."""
    if loss is functional.cross_entropy:
        return CrossEntropy()
    if not isinstance(loss, ConvexLoss):
        raise ValueError(
            f"Gauss–Newton needs a loss that is convex in the logits, CrossEntropy() or LeastSquares(),"
            f' got {loss!r}; use method "adam", "sgd" or "lbfgs" for others'
        )
    return loss


def require_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless the labels are integers of the logits' classes, one a sample or pixel."""
    classes = logits.shape[1]
    if labels.is_floating_point() or labels.shape != logits[:, 0].shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} need integer labels {tuple(logits[:, 0].shape)},"
            f" got {labels.dtype} {tuple(labels.shape)}"
        )
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or high >= classes:
        ignored = ", or use torch's cross_entropy with adam, sgd or lbfgs to ignore some"
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, got {low}..{high};"
            f" number the classes from 0 and give the network as many outputs{ignored if low < 0 else ''}"
        )


def _count(logits: Tensor) -> int:
    """Samples, or pixels of all samples."""
    return logits.numel() // logits.shape[1]
