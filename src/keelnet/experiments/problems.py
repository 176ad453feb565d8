"""Problems: what a recipe's names stand for: samples, network, objective, scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keelnet.analysis.scores import accuracy, dice, mean_of
from keelnet.data import digits, tissue_slices
from keelnet.data.samples import Samples
from keelnet.experiments.recipes import Recipe
from keelnet.learning.descent import Budget, Score, Training, Validation, scored
from keelnet.learning.methods import SGD, Adam, Method
from keelnet.learning.objective import Objective
from keelnet.networks import architectures
from keelnet.propagation import checkpointed, reversible, store_all
from keelnet.propagation.gradients import Strategy

STRATEGIES: dict[str, Strategy] = {
    "store_all": store_all,
    "checkpointed": checkpointed,
    "reversible": reversible,
}


@dataclass(frozen=True)
class Problem:
    """A recipe brought to life."""

    samples: Samples
    network: nn.Module
    objective: Objective
    training: Training
    score: Score
    class_names: tuple[str, ...]

    @property
    def validation(self) -> Validation:
        """What an epoch ends with."""
        return scored(self.samples, self.score, self.training.batch_size, self.training.device)


def problem(recipe: Recipe) -> Problem:
    """Samples, network and training of a recipe; raises ValueError where its values cannot work."""
    samples = _samples(recipe)
    per_pixel = samples.validation[1].ndim > 1
    if per_pixel != (recipe.architecture == "segmenter"):
        wanted = "segmenter" if per_pixel else "any architecture but segmenter"
        raise ValueError(
            f"recipe {recipe.name} needs {wanted}, got architecture={recipe.architecture}"
        )
    try:
        network = _network(recipe, samples).to(_device(recipe.device))
        _try(recipe, samples, network)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"no network of width {recipe.width}, depth {recipe.depth}, stencil {recipe.stencil},"
            f" final_time {recipe.final_time} can be built and run here: {reason}"
        ) from error
    return Problem(
        samples,
        network,
        Objective(smoothness=recipe.smoothness, tikhonov=recipe.tikhonov),
        _training(recipe, "mean_dice" if per_pixel else "accuracy"),
        _tissue_score(samples.class_names) if per_pixel else _image_score,
        samples.class_names,
    )


def _try(recipe: Recipe, samples: Samples, network: nn.Module) -> None:
    """Raise now what the first step would raise: a batch that cannot be had, a shape that does not fit."""
    samples.batches(recipe.batch, torch.Generator())
    with torch.no_grad():
        network(samples.validation[0][:1].to(_device(recipe.device)))


def _samples(recipe: Recipe) -> Samples:
    makers: dict[str, Callable[[], Samples]] = {
        "digits": lambda: digits(seed=recipe.seed),
        "tissue": tissue_slices,
    }
    return makers[recipe.data]()


def _network(recipe: Recipe, samples: Samples) -> nn.Module:
    settings: dict[str, Any] = {
        "width": recipe.width,
        "depth": recipe.depth,
        "final_time": recipe.final_time,
        "dim": 2,
        "stencil": recipe.stencil,
        "activation": recipe.activation,
        "knots": recipe.knots,
        "seed": recipe.seed,
    }
    if recipe.strategy != "auto":
        settings["strategy"] = STRATEGIES[recipe.strategy]
    return getattr(architectures, recipe.architecture)(
        samples.channels, samples.classes, **settings
    )


def _training(recipe: Recipe, goal: str) -> Training:
    method: Method = (
        Adam(recipe.rate, recipe.decay)
        if recipe.method == "adam"
        else SGD(recipe.rate, recipe.momentum, recipe.decay)
    )
    seconds = None if recipe.minutes is None else 60 * recipe.minutes
    return Training(
        method,
        Budget(recipe.epochs, seconds),
        recipe.batch,
        goal,
        recipe.warmup,
        recipe.clip,
        _device(recipe.device),
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}; use cpu") from None
    return device


def _image_score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {"accuracy": accuracy(logits, labels)}


def _tissue_score(class_names: tuple[str, ...]) -> Score:
    """Dice of every class but the background, which is known exactly."""

    def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
        values = dice(logits.argmax(dim=1), labels, len(class_names))[1:]
        named = dict(zip(class_names[1:], values, strict=True))
        return {"mean_dice": mean_of(values), **named}

    return score
