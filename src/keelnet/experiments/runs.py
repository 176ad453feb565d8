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
from keelnet.experiments.problems import Problem, device_named, network_of, problem
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.tasks import Report
from keelnet.learning.descent import Progress, State, descend
from keelnet.learning.processes import Team, restarted, team_of

CURVES_EVERY = 20  # seconds between pictures of a run that goes on
STATE = "state.pt"  # of a run that is not finished


class DivergenceError(ValueError):
    """The training itself failed: a recipe that can be begun, but not with these numbers to an end."""


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe, scores, and (a line an epoch) history."""

    folder: Path
    recipe: Recipe
    scores: dict[str, Any]
    history: list[dict[str, Any]]


def train(
    recipe: Recipe,
    out: Path,
    overwrite: bool = False,
    resume: bool = False,
    report: Report = lambda line: None,
) -> Iterator[Progress]:
    """Train by a recipe and leave a run folder; yields after every epoch.

    Written to ``out``: recipe.toml, history.jsonl (a line an epoch), weights.safetensors (of the
    best iterate so far, at every improvement), scores.json and pictures (at the end). An existing
    run is refused without ``overwrite``; with it, the old files stay until the new run is whole.
    ``resume`` goes on with an interrupted run from its last whole epoch, to the same weights, bit for
    bit, if the budget is epochs.
    ``report`` is given a line now and then while data are made ready.
    Raises ValueError for a recipe that cannot work and a folder that cannot be written.
    """
    if resume and overwrite:
        raise ValueError("choose --resume or --overwrite, not both")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    team, device = team_of(device_named(recipe.device))
    resume = resume or (restarted() and _reopenable(out))
    earlier = _earlier(recipe, OutputFolder.reopen(out, STATE)) if resume else None
    keeper = _keeper(out, overwrite, resume) if team.leads else None
    made = team.in_turn(lambda: problem(recipe, report if team.leads else _silent, device))
    if keeper is None:
        yield from _descended(recipe, made, earlier, team)
        return
    with keeper as folder:
        yield from _kept(recipe, made, folder, earlier, team)


def _silent(line: str) -> None:
    """Only one of several processes speaks."""


def _keeper(out: Path, overwrite: bool, resume: bool) -> OutputFolder:
    return OutputFolder.reopen(out, STATE) if resume else OutputFolder.claim(out, overwrite)


def _reopenable(out: Path) -> bool:
    """Whether processes that were started again find what they left."""
    try:
        return OutputFolder.reopen(out, STATE).existed
    except ValueError:
        return False


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
    recipe: Recipe, made: Problem, earlier: State | None, team: Team
) -> Iterator[Progress]:
    try:
        yield from descend(
            made.network,
            made.objective,
            made.task.source,
            made.training,
            made.task.validated,
            torch.Generator().manual_seed(recipe.seed),
            time.monotonic,
            earlier,
            team,
        )
    except ValueError as error:
        raise DivergenceError(str(error)) from error


def _kept(
    recipe: Recipe, made: Problem, folder: OutputFolder, earlier: State | None, team: Team
) -> Iterator[Progress]:
    """The descent, with what each epoch leaves on disk."""
    history = _history(folder, earlier)
    drawn = time.monotonic()
    for progress in _descended(recipe, made, earlier, team):
        if not history:  # a run that fails before its first epoch leaves nothing
            folder.write_text("recipe.toml", tomli_w.dumps(recipe.as_table()))
            for name, content in made.task.about().items():
                folder.write_text(name, json.dumps(content, indent=2) + "\n")
        history.append(as_line(progress))
        folder.write_text("history.jsonl", "".join(json.dumps(line) + "\n" for line in history))
        if progress.best:
            folder.write_bytes("weights.safetensors", weights_as_bytes(made.network))
        if time.monotonic() - drawn > CURVES_EVERY and any(line["best"] for line in history):
            drawn = time.monotonic()
            folder.write_bytes("curves.png", _curves(recipe, history))
        folder.write_bytes(STATE, _as_bytes(progress.state))  # last: it vouches for the others
        yield progress
    _finish(recipe, made, folder, history)


def _finish(
    recipe: Recipe, made: Problem, folder: OutputFolder, history: list[dict[str, Any]]
) -> None:
    """Pictures and scores of the best iterate, which the network holds now."""
    best = [line for line in history if line["best"]]
    if not best:
        raise DivergenceError(
            f"training diverged: no epoch gave a number for {made.training.goal}; use a smaller rate"
        )
    scores = final_scores(recipe, made, best[-1], history[-1]["seconds"])
    folder.write_bytes("curves.png", _curves(recipe, history))
    for name, picture in made.task.pictures(made.network).items():
        folder.write_bytes(name, picture)
    # Last, since a run with scores counts as finished.
    folder.write_text("scores.json", json.dumps(scores, indent=2) + "\n")
    folder.remove(STATE)


def _curves(recipe: Recipe, history: list[dict[str, Any]]) -> bytes:
    from keelnet.experiments import pictures

    return pictures.curves(recipe.name, history)


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
    recipe: Recipe, made: Problem, best: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """What scores.json holds: the task's scores of the best iterate, and what gave them."""
    return {
        "recipe": recipe.name,
        **made.task.final_scores(made.network, best["scores"]),
        "best_epoch": best["epoch"],
        "seconds": seconds,
        "parameters": sum(value.numel() for value in made.network.parameters()),
        "seed": recipe.seed,
        "device": recipe.device,
        "keelnet": __version__,
        "torch": str(torch.__version__),
    }


def weights_as_bytes(network: nn.Module) -> bytes:
    """The state of a network in the safetensors format."""
    state: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
    }
    return safetensors.torch.save(state)


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
    network = network_of(recipe)
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder / 'weights.safetensors'} cannot be loaded: {reason}") from None
    return network.eval()
