"""Problems: a recipe brought to life: task, network, objective, training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from keelnet.experiments.recipes import Recipe
from keelnet.experiments.tasks import (
    Digits,
    Report,
    Task,
    Tissue,
    digits_task,
    tissue_task,
)
from keelnet.experiments.tumours import Tumour, tumour_task
from keelnet.learning.methods import SGD, Adam, Method
from keelnet.learning.objective import Objective
from keelnet.learning.training import Budget, Training
from keelnet.networks import architectures
from keelnet.propagation import checkpointed, reversible, store_all
from keelnet.propagation.gradients import Strategy

STRATEGIES: dict[str, Strategy] = {
    "store_all": store_all,
    "checkpointed": checkpointed,
    "reversible": reversible,
}
TASKS: dict[str, type[Task]] = {"digits": Digits, "tissue": Tissue, "tumour": Tumour}


@dataclass(frozen=True)
class Problem:
    """A recipe brought to life."""

    task: Task
    network: nn.Module
    objective: Objective
    training: Training


def problem(
    recipe: Recipe, report: Report = lambda line: None, device: torch.device | None = None
) -> Problem:
    """Task, network and training of a recipe; raises ValueError where its values cannot work.

    ``report`` is given a line now and then while data are made ready; ``device`` stands before that of the recipe.
    """
    device = device or device_named(recipe.device)
    network = network_of(recipe).to(device)
    task = _task(recipe, device, report)
    try:
        task.source.batches(recipe.batch, torch.Generator())
        with torch.no_grad():
            network(task.example.to(device))
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise _unbuildable(recipe, error) from error
    return Problem(
        task,
        network,
        Objective(task.loss, recipe.smoothness, recipe.tikhonov),
        _training(recipe, task.goal, device),
    )


def network_of(recipe: Recipe) -> nn.Module:
    """The network of a recipe as training begins with it; no data are needed for it."""
    kind = TASKS[recipe.data]
    if kind.per_pixel != (recipe.architecture == "segmenter"):
        wanted = "segmenter" if kind.per_pixel else "any architecture but segmenter"
        raise ValueError(
            f"recipe {recipe.name} needs {wanted}, got architecture={recipe.architecture}"
        )
    settings: dict[str, Any] = {
        "width": recipe.width,
        "depth": recipe.depth,
        "final_time": recipe.final_time,
        "dim": kind.dim,
        "stencil": recipe.stencil,
        "activation": recipe.activation,
        "knots": recipe.knots,
        "seed": recipe.seed,
    }
    if recipe.strategy != "auto":
        settings["strategy"] = STRATEGIES[recipe.strategy]
    if recipe.architecture == "segmenter":
        settings |= {"folds": recipe.folds, "rise": recipe.rise}
    make = getattr(architectures, recipe.architecture)
    try:
        network: nn.Module = make(kind.inputs, kind.outputs, **settings)
        return network.to(device_named(recipe.device))
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise _unbuildable(recipe, error) from error


def _unbuildable(recipe: Recipe, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"no network of width {recipe.width}, depth {recipe.depth}, stencil {recipe.stencil},"
        f" final_time {recipe.final_time} can be built and run here: {reason}"
    )


def _task(recipe: Recipe, device: torch.device, report: Report) -> Task:
    makers: dict[str, Callable[[], Task]] = {
        "digits": lambda: digits_task(recipe.seed, recipe.batch, device),
        "tissue": lambda: tissue_task(recipe.batch, device),
        "tumour": lambda: tumour_task(recipe, device, report),
    }
    return makers[recipe.data]()


def _training(recipe: Recipe, goal: str, device: torch.device) -> Training:
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
        device,
        recipe.average,
        recipe.products,
    )


def device_named(name: str) -> torch.device:
    """The device of that name; raises ValueError where it cannot be used."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}; use cpu") from None
    return device
