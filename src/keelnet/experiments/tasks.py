"""Tasks: what a recipe's data name stands for: where batches come from, and what a network is judged by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from keelnet.analysis.scores import dice, mean_of
from keelnet.data import tissue_slices
from keelnet.data.samples import Samples, Source
from keelnet.learning.losses import CrossEntropy, Loss
from keelnet.learning.validation import predicted, scored

Report = Callable[[str], None]


class Task(ABC):
    """Samples to train on, a loss for them, and scores of a network.

    inputs and outputs: channels of x and of the logits. dim: space axes. per_pixel: whether every
    pixel has a label. goal: the score whose best iterate is kept. loss: of logits and labels. batch: of validation
    samples.
    """

    inputs: ClassVar[int]
    outputs: ClassVar[int]
    dim: ClassVar[int] = 2
    per_pixel: ClassVar[bool]
    goal: ClassVar[str]
    loss: ClassVar[Loss] = CrossEntropy()

    source: Source
    batch: int = 64
    device: torch.device = torch.device("cpu")

    @property
    @abstractmethod
    def example(self) -> Tensor:
        """One x, of a batch of one, to try a network on."""

    @abstractmethod
    def validated(self, network: nn.Module) -> dict[str, float]:
        """Scores by name, `goal` among them."""

    def final_scores(self, network: nn.Module, best: dict[str, float]) -> dict[str, Any]:
        """What a finished run says of its best iterate, whose validation scores are ``best``."""
        return {"validation_dice": _but_the_mean(best), "validation_dice_mean": best["mean_dice"]}

    def pictures(self, network: nn.Module) -> dict[str, bytes]:
        """Files that show what the network does."""
        return {}

    def about(self) -> dict[str, Any]:
        """What to keep of the data beside the run, by file name."""
        return {}

    def require_same(self, run: Path) -> None:
        """Raise ValueError where the run that lies there was begun on other data than these, if data can change."""
        return


def _but_the_mean(scores: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if name != "mean_dice"}


class Withheld(Task):
    """A task whose withheld samples are in memory."""

    def __init__(self, samples: Samples, batch: int, device: torch.device) -> None:
        self.source = self.samples = samples
        self.batch, self.device = batch, device

    @property
    def example(self) -> Tensor:
        return self.samples.validation[0][:1]

    @abstractmethod
    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Of the logits of withheld samples."""

    def validated(self, network: nn.Module) -> dict[str, float]:
        return scored(self.samples, self.score, self.batch, self.device)(network)


class Tissue(Withheld):
    """Axial slices of a brain: CSF, grey and white matter."""

    inputs, outputs, per_pixel, goal = 1, 4, True, "mean_dice"

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Dice of every class but the background, which is known exactly."""
        names = self.samples.class_names
        values = dice(logits.argmax(dim=1), labels, len(names))[1:]
        return {"mean_dice": mean_of(values), **dict(zip(names[1:], values, strict=True))}

    def final_scores(self, network: nn.Module, best: dict[str, float]) -> dict[str, Any]:
        """Also on the same slices under noise and bias, which intensity alone does not solve."""
        corrupted: Any = self.samples
        x, labels = corrupted.validation_corrupted(0)
        scores = self.score(predicted(network, x, self.batch, self.device), labels)
        return super().final_scores(network, best) | {
            "corrupted_dice": _but_the_mean(scores),
            "corrupted_dice_mean": scores["mean_dice"],
        }

    def pictures(self, network: nn.Module) -> dict[str, bytes]:
        from keelnet.experiments import pictures

        x, labels = self.samples.validation
        found = predicted(network, x, self.batch, self.device).argmax(dim=1)
        return {"overlay.png": pictures.overlay(x, labels, found, self.samples.class_names)}


def tissue_task(batch: int, device: torch.device) -> Tissue:
    """The slices of the atlas."""
    return Tissue(tissue_slices(), batch, device)
