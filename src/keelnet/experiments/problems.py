"""Problems: a recipe brought to life: task, network, objective, training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keelnet.data.samples import WHOLE, Share
from keelnet.experiments.classification import (
    CLASSIFICATION_TASKS,
    KINDS,
    Classification,
    classification_task,
)
from keelnet.experiments.qtips import Qtips, qtips_task
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.scan_sets import Scans, scan_set
from keelnet.experiments.schemes import METHODS, Scheme, coarsest, scheme_of
from keelnet.experiments.spaces import unit_of
from keelnet.experiments.tasks import Report, Task, Tissue, tissue_task
from keelnet.experiments.tumours import Tumour, require_settings, tumour_task
from keelnet.learning.objective import Objective
from keelnet.networks import architectures
from keelnet.propagation import checkpointed, engine, reversible, store_all
from keelnet.propagation.gradients import Strategy

STRATEGIES: dict[str, Strategy] = {
    "store_all": store_all,
    "checkpointed": checkpointed,
    "reversible": reversible,
}
TASKS: dict[str, type[Task]] = {
    "tissue": Tissue,
    "tumour": Tumour,
    "qtips": Qtips,
    **CLASSIFICATION_TASKS,
}


@dataclass(frozen=True)
class Problem:
    """A recipe brought to life; the network has the layers that training begins with."""

    task: Task
    network: nn.Module
    objective: Objective
    scheme: Scheme


def problem(
    recipe: Recipe,
    report: Report = lambda line: None,
    device: torch.device | None = None,
    scans: Scans = scan_set,
    share: Share = WHOLE,
) -> Problem:
    """Task, network and training of a recipe; raises ValueError where its values cannot work.

    ``report`` is given a line now and then while data are made ready; ``device`` stands before that of the recipe;
    ``scans`` makes those of a recipe on scans ready; ``share``: what this process will train on of each batch.
    """
    device = device or device_named(recipe.device)
    network = network_to_train(recipe, device)
    task = _task(recipe, device, report, scans)
    batch = recipe.batch or _every(task)
    try:
        _require_batch(task, batch)
        with torch.no_grad():
            network(task.example.to(device))
        if isinstance(task, Classification):
            _warm(network, task.samples.validation[0], len(share.of(batch)), device)
            if recipe.method in METHODS:
                torch.optim.SGD(network.parameters(), 1.0)  # the first one loads 800 modules
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise _unbuildable(recipe, error) from error
    return Problem(task, network, _objective(recipe), scheme_of(recipe, task.goal, batch, device))


def network_to_train(recipe: Recipe, device: torch.device | None = None) -> nn.Module:
    """The network that training begins with. ``device`` stands before the recipe's.

    Raises ValueError for whatever can be known to be wrong before any data are made ready, which may take minutes.
    """
    device = device or device_named(recipe.device)
    if recipe.on_scans:
        require_settings(recipe)
    kind, network = TASKS[recipe.data], network_of(coarsest(recipe), device)
    scheme = scheme_of(recipe, kind.goal, recipe.batch or 1, device)
    scheme.require_trainable(network, _objective(recipe))
    if recipe.products != "state":
        _require_products(recipe, network, device)
    return network


def _objective(recipe: Recipe) -> Objective:
    loss = TASKS[recipe.data].loss
    return Objective(loss, recipe.smoothness, recipe.tikhonov, recipe.classifier_tikhonov)


def _require_products(recipe: Recipe, network: nn.Module, device: torch.device) -> None:
    """Which fields have them does not depend on the size of an image: the smallest that can be halved will do."""
    kind, side = TASKS[recipe.data], 2 * unit_of(recipe)
    x = torch.zeros(1, kind.inputs, *(side,) * kind.dim, device=device)
    try:
        with torch.no_grad(), engine(products=recipe.products):
            network(x)
    except ValueError as error:
        raise ValueError(
            f"{recipe.architecture} on {recipe.data} has no products={recipe.products}; use products=state ({error})"
        ) from error


def network_of(recipe: Recipe, device: torch.device | None = None) -> nn.Module:
    """The network of a recipe, before training; no data are needed for it. ``device`` stands before the recipe's."""
    kind = TASKS[recipe.data]
    _require_decisions(recipe, kind.per_pixel)
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
    else:
        settings |= {"gain": recipe.gain, "classifier": "pixel" if kind.per_pixel else "image"}
    make = getattr(architectures, recipe.architecture)
    try:
        network: nn.Module = make(kind.inputs, kind.outputs, **settings)
        return network.to(device or device_named(recipe.device))
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise _unbuildable(recipe, error) from error


def _require_decisions(recipe: Recipe, per_pixel: bool) -> None:
    """One an image, or one a pixel, where only the segmenter comes back from coarser levels to the pixels."""
    several = not isinstance(recipe.width, int) and len(recipe.width) > 1
    if recipe.architecture == "segmenter":
        wanted = None if per_pixel else "any architecture but segmenter"
    else:
        wanted = "segmenter (or one width)" if per_pixel and several else None
    if wanted is not None:
        raise ValueError(
            f"recipe {recipe.name} needs {wanted}, got architecture={recipe.architecture}"
            f" of width {recipe.width}"
        )


def _unbuildable(recipe: Recipe, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"no network of width {recipe.width}, depth {recipe.depth}, stencil {recipe.stencil},"
        f" final_time {recipe.final_time} can be built and run here: {reason}"
    )


def _task(recipe: Recipe, device: torch.device, report: Report, scans: Scans) -> Task:
    if recipe.data in KINDS:
        return classification_task(recipe, device)
    makers: dict[str, Callable[[], Task]] = {
        "tissue": lambda: tissue_task(recipe.batch, device),
        "tumour": lambda: tumour_task(recipe, device, report, scans),
        "qtips": lambda: qtips_task(recipe, device),
    }
    return makers[recipe.data]()


def _require_batch(task: Task, batch: int) -> None:
    """Sources are asked for a ``batch_size``; whoever reads a recipe knows it as its setting."""
    try:
        task.source.batches(batch, torch.Generator())
    except ValueError as error:
        raise ValueError(str(error).replace("batch_size", "batch")) from error


def _warm(network: nn.Module, x: Tensor, count: int, device: torch.device) -> None:
    """Have the code that a step needs loaded, over a second of it, before any clock runs."""
    batch = x[torch.arange(count) % len(x)].to(device)
    parameters = [value for value in network.parameters() if value.requires_grad]
    torch.autograd.grad(network(batch).sum(), parameters)


def _every(task: Task) -> int:
    """How many training samples there are; a recipe that takes all at once has them in memory."""
    assert isinstance(task, Classification)
    return len(task.samples.training[0])


def device_named(name: str) -> torch.device:
    """The device of that name; raises ValueError where it cannot be used."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # of meta there are tensors, and no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {reason}; use cpu") from None
    return device
