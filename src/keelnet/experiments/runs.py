"""Runs: from a recipe to a folder. What is on disk is whole: temporary names, then a rename."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
import torch
from torch import Tensor, nn

from keelnet import __version__
from keelnet.analysis.tables import plain
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.openings import STATE, Opening, opening, require_finished, state_as_bytes
from keelnet.experiments.problems import Problem, device_named, network_of, problem
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.tasks import Report, Task
from keelnet.learning.breakdown import is_breakdown
from keelnet.learning.processes import Team, team_of
from keelnet.learning.progress import Progress, State

CURVES_EVERY = 20  # seconds between pictures of a run that goes on
SAVED_EVERY = 1  # seconds, at least, between states


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
    best iterate so far), scores.json and pictures (at the end). Epochs shorter than a second share a save. An existing
    run is refused without ``overwrite``; with it, the old files stay until the new run is whole.
    ``resume`` goes on with an interrupted run from the last epoch that was saved, to the same weights, bit for
    bit, if the budget is epochs.
    ``report`` is given a line now and then while data are made ready.
    Raises ValueError for a recipe that cannot work and a folder that cannot be written.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    team, device = team_of(device_named(recipe.device))
    with team.watched():
        begun: list[Opening] = []  # by the leader alone

        def begin() -> State | None:
            begun.append(opening(recipe, out, overwrite, resume))
            return begun[0].earlier

        earlier = team.by_leader(begin)
        say = report if team.leads else _silent
        made = team.in_turn(lambda: problem(recipe, say, device, share=team.share))
        if not begun:
            yield from _descended(recipe, made, _Judge(made.task), earlier, team)
            return
        with begun[0].entered() as folder:
            yield from _kept(recipe, made, folder, begun[0], team)


def _silent(line: str) -> None:
    """Only one of several processes speaks."""


@dataclass
class _Judge:
    """A task's validation, and the seconds that it has taken: comparisons of methods leave these out."""

    task: Task
    seconds: float = 0.0

    def validated(self, network: nn.Module) -> dict[str, float]:
        begin = time.monotonic()
        scores = self.task.validated(network)
        self.seconds += time.monotonic() - begin
        return scores


def _descended(
    recipe: Recipe, made: Problem, judge: _Judge, earlier: State | None, team: Team
) -> Iterator[Progress]:
    try:
        yield from made.scheme.steps(
            made.network,
            made.objective,
            made.task.source,
            judge.validated,
            torch.Generator().manual_seed(recipe.seed),
            time.monotonic,
            earlier,
            team,
        )
    except ValueError as error:
        if not is_breakdown(error):  # settings, data or a folder that cannot work
            raise
        raise DivergenceError(str(error)) from error


def _kept(
    recipe: Recipe, made: Problem, folder: OutputFolder, begun: Opening, team: Team
) -> Iterator[Progress]:
    """The descent, with what it leaves on disk."""
    earlier = begun.earlier
    if earlier is not None:
        made.task.require_same(folder.root)
    record = _Record(recipe, made, folder, list(begun.history))
    judge = _Judge(made.task, begun.history[-1].get("judging", 0.0) if earlier else 0.0)
    try:
        for progress in _descended(recipe, made, judge, earlier, team):
            record.add(progress, judge.seconds)
            try:
                yield progress
            except GeneratorExit:  # the caller stops listening: nothing has moved since
                record.save()
                raise
    except DivergenceError:
        if folder.staged:  # it would only diverge again: the old run is what is left
            folder.remove(STATE)
        raise
    record.save(ended=True)
    if earlier is not None:
        # Those on disk may be of an epoch after the state, which came out otherwise when it was made again.
        folder.write_bytes("weights.safetensors", weights_as_bytes(made.network.state_dict()))
    _finish(recipe, made, folder, record.history)


@dataclass
class _Record:
    """What a run that goes on has on disk: always whole, and of an epoch that ended a second ago at most."""

    recipe: Recipe
    made: Problem
    folder: OutputFolder
    history: list[dict[str, Any]]

    def __post_init__(self) -> None:
        self.lines = [json.dumps(line) + "\n" for line in self.history]
        self.saved, self.drawn = -math.inf, time.monotonic()
        self.improved, self.state = False, None

    state: State | None = field(init=False)

    def add(self, progress: Progress, judging: float) -> None:
        """An epoch more; short ones share a save."""
        if not self.history:  # a run that fails before its first epoch leaves nothing
            self.folder.write_text("recipe.toml", tomli_w.dumps(self.recipe.as_table()))
            for name, content in self.made.task.about().items():
                self.folder.write_text(name, json.dumps(content, indent=2) + "\n")
        self.history.append(as_line(progress, judging))
        self.lines.append(json.dumps(self.history[-1]) + "\n")
        self.improved, self.state = self.improved or progress.best, progress.state
        if time.monotonic() - self.saved > SAVED_EVERY:
            self.save()

    def save(self, ended: bool = False) -> None:
        """History, best weights and the state, which vouches for them; now and then a picture.

        Where the descent has ended, the network holds its best iterate: there is no state to keep.
        """
        if self.state is None:
            return
        self.folder.write_text("history.jsonl", "".join(self.lines))
        if self.improved:
            self.folder.write_bytes("weights.safetensors", weights_as_bytes(self.state.kept))
        if not ended:
            self.folder.write_bytes(STATE, state_as_bytes(self.state))
        if time.monotonic() - self.drawn > CURVES_EVERY and any(
            each["best"] for each in self.history
        ):
            self.drawn = time.monotonic()
            self.folder.write_bytes("curves.png", _curves(self.recipe, self.history))
        self.saved, self.improved, self.state = time.monotonic(), False, None


def _finish(
    recipe: Recipe, made: Problem, folder: OutputFolder, history: list[dict[str, Any]]
) -> None:
    """Pictures and scores of the best iterate, which the network holds now."""
    best = [line for line in history if line["best"]]
    if not best:
        raise DivergenceError(
            f"training diverged: no epoch gave a number for {made.task.goal}; use a smaller rate (adam, sgd)"
            " or a stable architecture"
        )
    try:
        scores = final_scores(recipe, made, best[-1], history[-1]["seconds"])
        pictures = made.task.pictures(made.network)
    except ValueError as error:
        if not is_breakdown(error):
            raise
        raise DivergenceError(f"the best iterate cannot be judged: {error}") from error
    folder.write_bytes("curves.png", _curves(recipe, history))
    for name, picture in pictures.items():
        folder.write_bytes(name, picture)
    # Last, since a run with scores counts as finished.
    folder.write_text("scores.json", json.dumps(scores, indent=2) + "\n")
    folder.remove(STATE)


def _curves(recipe: Recipe, history: list[dict[str, Any]]) -> bytes:
    from keelnet.experiments import pictures

    return pictures.curves(recipe.name, history)


def as_line(progress: Progress, judging: float = 0.0) -> dict[str, Any]:
    """One line of history.jsonl; judging: those of the seconds that validation took."""
    line = {
        "epoch": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "judging": round(judging, 3),
        "rate": progress.rate,
        "terms": progress.terms,
        "scores": plain(progress.scores),
        "best": progress.best,
    }
    return line | ({"details": plain(progress.details)} if progress.details else {})


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


def weights_as_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The state dictionary of a network in the safetensors format."""
    return safetensors.torch.save(
        {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    )


def recipe_in(folder: Path) -> Recipe:
    """The recipe of the run in a folder; raises ValueError, with the folder's name, for one that cannot be read."""
    try:
        return Recipe.from_toml((folder / "recipe.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder} holds a recipe that cannot be read: {error}") from None


def load_run(folder: Path) -> Run:
    """A run folder read back; raises ValueError where files are missing or broken."""
    if not (folder / "recipe.toml").is_file():
        raise ValueError(f"{folder} is no run folder: it holds no recipe.toml")
    require_finished(folder)
    recipe = recipe_in(folder)
    try:
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        history = [json.loads(line) for line in lines]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{folder} holds a file that is not JSON: {error}") from None
    if not isinstance(scores, dict) or not history:
        raise ValueError(f"{folder} holds no scores or no history; train again")
    return Run(folder, recipe, scores, history)


def load_network(folder: Path, device: str = "cpu") -> nn.Module:
    """The trained network of a run folder, in evaluation mode, on this device, whichever it was trained on.

    Raises ValueError for weights of another architecture and for weights that are not finite.
    """
    recipe = load_run(folder).recipe
    network = network_of(recipe, device_named(device))
    try:
        network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    except RuntimeError as error:  # a line for each weight that does not fit; the first will do
        reason = " ".join("".join(str(error).splitlines()[1:2]).split()).rstrip(".")
        raise ValueError(
            f"{folder / 'weights.safetensors'} cannot be loaded: it belongs to another network than recipe.toml"
            f" ({reason})"
        ) from None
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder / 'weights.safetensors'} cannot be loaded: {error}") from None
    for name, value in network.state_dict().items():
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"{folder / 'weights.safetensors'} holds NaN or infinity in {name}; train again"
            )
    return network.eval()
