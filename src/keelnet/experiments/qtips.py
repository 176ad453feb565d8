"""The task of the Q-tips: every pixel of a rod is labelled by the marks at both its ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from keelnet.analysis.scores import accuracy, dice, mean_of
from keelnet.data.qtips import qtips
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.tasks import Withheld
from keelnet.learning.validation import predicted


class Qtips(Withheld):
    """Rods with none, one or two bright ends; judged on the pixels of rods, where guessing gives ½."""

    inputs, outputs, per_pixel, goal = 1, 4, True, "accuracy"

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy on the pixels of rods, to call one background is wrong; Dice of each kind of rod."""
        rod = labels > 0
        names = self.samples.class_names
        values = dice(logits.argmax(dim=1), labels, len(names))[1:]
        return {
            "accuracy": accuracy(logits.movedim(1, -1)[rod], labels[rod]),
            "mean_dice": mean_of(values),
            **dict(zip(names[1:], values, strict=True)),
        }

    def final_scores(self, network: nn.Module, best: dict[str, float]) -> dict[str, Any]:
        rods = {name: value for name, value in best.items() if name != "accuracy"}
        return {"validation_accuracy": best["accuracy"], **super().final_scores(network, rods)}

    def pictures(self, network: nn.Module) -> dict[str, bytes]:
        from keelnet.experiments.rod_pictures import overlay

        x, labels = self.samples.validation
        found = predicted(network, x, self.batch, self.device).argmax(dim=1)
        return {"overlay.png": overlay(x, labels, found, self.samples.class_names)}


def qtips_task(recipe: Recipe, device: torch.device) -> Qtips:
    """The recipe's rods; raises ValueError for those that do not fit into its images."""
    samples = qtips(recipe.seed, size=recipe.size, length=recipe.length, rods=recipe.rods)
    return Qtips(samples, recipe.batch, device)
