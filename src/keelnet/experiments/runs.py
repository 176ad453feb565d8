"""Runs: from a recipe to a folder. What is on disk is whole: temporary names, then a rename."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
import torch
from torch import Tensor, nn

from keelnet import __version__
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.problems import Problem, problem
from keelnet.experiments.recipes import Recipe
from keelnet.learning.descent import Progress, State, descend, predicted

STATE = "state.pt"  # of a run that is not finished


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe, scores, and (a line an epoch) history."""

    folder: Path
    recipe: Recipe
    scores: dict[str, Any]
    history: list[dict[str, Any]]


def train(
    recipe: Recipe, out: Path, overwrite: bool = False, resume: bool = False
) -> Iterator[Progress]:
    """Train by a recipe and leave a run folder; yields after every epoch.

    Written to ``out``: recipe.toml, history.jsonl (a line an epoch), weights.safetensors (of the
    best iterate so far, at every improvement), scores.json and pictures (at the end). An existing
    run is refused without ``overwrite``; with it, the old files stay until the new run is whole.
    ``resume`` goes on with an interrupted run from its last whole epoch, to the same weights, bit for
    bit, if the budget is epochs.
    Raises ValueError for a recipe that cannot work and a folder that cannot be written.
    """
    if resume and overwrite:
        raise ValueError("choose --resume or --overwrite, not both")
    folder = OutputFolder.reopen(out, STATE) if resume else OutputFolder.claim(out, overwrite)
    earlier = _earlier(recipe, folder) if resume else None
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    task = problem(recipe)
    with folder:
        yield from _descended(recipe, task, folder, earlier)


def _earlier(recipe: Recipe, folder: OutputFolder) -> State:
    """The state that an interrupted run of this recipe left."""
    try:
        left = Recipe.from_toml((folder.root / "recipe.toml").read_text())
        state = torch.load(folder.root / STATE, weights_only=True)
    except Exception as error:  # bytes that are no state may make the reader raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder.root} cannot be gone on with: {reason}") from None
    if left != recipe:
        changed = [key for key, value in asdict(recipe).items() if asdict(left)[key] != value]
        raise ValueError(
            f"{folder.root} was begun with other settings ({', '.join(changed)}); resume with its own"
        )
    return State(**state)


def _descended(
    recipe: Recipe, task: Problem, folder: OutputFolder, earlier: State | None
) -> Iterator[Progress]:
    generator = torch.Generator().manual_seed(recipe.seed)
    history = _history(folder, earlier)
    best = max(
        (line for line in history if line["best"]),
        key=lambda line: int(line["epoch"]),
        default=None,
    )
    for progress in descend(
        task.network,
        task.objective,
        task.samples,
        task.training,
        task.validation,
        generator,
        time.monotonic,
        earlier,
    ):
        if not history:  # a run that fails before its first epoch leaves nothing
            folder.write_text("recipe.toml", tomli_w.dumps(recipe.as_table()))
        history.append(as_line(progress))
        folder.write_text("history.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        if progress.best:
            best = history[-1]
            folder.write_bytes("weights.safetensors", weights_as_bytes(task.network))
        folder.write_bytes(STATE, _as_bytes(progress.state))  # last: it vouches for the others
        yield progress
    if best is None:
        raise ValueError(
            f"training diverged: no epoch gave a number for {task.training.goal}; use a smaller rate"
        )
    scores = final_scores(recipe, task, best, history[-1]["seconds"])
    _draw(recipe, task, history, folder)
    # Last, since a run with scores counts as finished.
    folder.write_text("scores.json", json.dumps(scores, indent=2) + "\n")
    folder.remove(STATE)


def _history(folder: OutputFolder, earlier: State | None) -> list[dict[str, Any]]:
    """The lines up to the state: one more may have been written before the end came."""
    if earlier is None:
        return []
    lines = (folder.root / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][: earlier.epoch]


def _as_bytes(state: State) -> bytes:
    file = io.BytesIO()
    torch.save({each.name: getattr(state, each.name) for each in fields(state)}, file)
    return file.getvalue()


def as_line(progress: Progress) -> dict[str, Any]:
    """One line of history.jsonl."""
    return {
        "epoch": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "rate": progress.rate,
        "terms": progress.terms,
        "scores": {name: _number(value) for name, value in progress.scores.items()},
        "best": progress.best,
    }


def _number(value: float) -> float | None:
    """JSON knows no nan."""
    return value if math.isfinite(value) else None


def final_scores(
    recipe: Recipe, task: Problem, best: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """What scores.json holds: validation_accuracy, or validation_dice by tissue and its mean."""
    scores: dict[str, Any] = {"recipe": recipe.name}
    values = best["scores"]
    if "mean_dice" in values:
        scores["validation_dice"] = {k: v for k, v in values.items() if k != "mean_dice"}
        scores["validation_dice_mean"] = values["mean_dice"]
    else:
        scores["validation_accuracy"] = values["accuracy"]
    scores |= corrupted_scores(task)
    return scores | {
        "best_epoch": best["epoch"],
        "seconds": seconds,
        "parameters": sum(value.numel() for value in task.network.parameters()),
        "seed": recipe.seed,
        "device": recipe.device,
        "keelnet": __version__,
        "torch": str(torch.__version__),
    }


def corrupted_scores(task: Problem) -> dict[str, Any]:
    """Dice on the same withheld slices under noise and bias, which intensity alone does not solve."""
    corrupted = getattr(task.samples, "validation_corrupted", None)
    if corrupted is None:
        return {}
    x, labels = corrupted(0)
    logits = predicted(task.network, x, task.training.batch_size, task.training.device)
    scores = task.score(logits, labels)
    mean = scores.pop("mean_dice")
    return {"corrupted_dice": scores, "corrupted_dice_mean": mean}


def weights_as_bytes(network: nn.Module) -> bytes:
    """The state of a network in the safetensors format."""
    state: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
    }
    return safetensors.torch.save(state)


def _draw(
    recipe: Recipe, task: Problem, history: list[dict[str, Any]], folder: OutputFolder
) -> None:
    from keelnet.experiments import pictures

    folder.write_bytes("curves.png", pictures.curves(recipe.name, history))
    if recipe.data == "tissue":
        x, labels = task.samples.validation
        logits = predicted(task.network, x, task.training.batch_size, task.training.device)
        folder.write_bytes(
            "overlay.png", pictures.overlay(x, labels, logits.argmax(dim=1), task.class_names)
        )


def load_run(folder: Path) -> Run:
    """A run folder read back; raises ValueError where files are missing or broken."""
    if not (folder / "recipe.toml").is_file():
        raise ValueError(f"{folder} is no run folder: it holds no recipe.toml")
    missing = [name for name in ("history.jsonl", "scores.json") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is not finished: {', '.join(missing)} missing; train again")
    recipe = Recipe.from_toml((folder / "recipe.toml").read_text())
    try:
        scores = json.loads((folder / "scores.json").read_text())
        lines = (folder / "history.jsonl").read_text().splitlines()
        history = [json.loads(line) for line in lines]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{folder} holds a file that is not JSON: {error}") from None
    if not isinstance(scores, dict) or not history:
        raise ValueError(f"{folder} holds no scores or no history; train again")
    return Run(folder, recipe, scores, history)


def load_network(folder: Path) -> nn.Module:
    """The trained network of a run folder, in evaluation mode."""
    recipe = load_run(folder).recipe
    network = problem(recipe).network
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / 'weights.safetensors'} cannot be loaded: {reason}") from None
    return network.eval()
