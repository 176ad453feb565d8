"""Openings: the folder that a run begins in, new or left by an interrupted one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from keelnet.experiments.folders import MARK, STAGING, OutputFolder
from keelnet.experiments.recipes import Recipe
from keelnet.learning.launches import launch, restarts_left
from keelnet.learning.progress import State

STATE = "state.pt"  # of a run that is not finished
SCORES = "scores.json"  # of one that is
HISTORY = "history.jsonl"
# Written before a first state.
FIRST = (MARK, "recipe.toml", "split.json", HISTORY, "weights.safetensors")
LINE = {"epoch", "seconds", "scores", "best"}  # what each line of it has at least
ANEW = "train anew in another folder (--out)"  # the way out


@dataclass(frozen=True)
class Opening:
    """Where a run writes, and the state that it goes on from, with the lines of history up to it."""

    folder: OutputFolder
    earlier: State | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def entered(self) -> Iterator[OutputFolder]:
        """Within the block the folder is this run's; a restart by torchrun finds it by its mark.

        Where no restart will follow, the mark goes with the run.
        """
        name = launch()
        with replace(self.folder, lasting=name is not None and restarts_left()) as folder:
            if name is not None:
                folder.write_text(MARK, name)
            try:
                yield folder
            except BaseException:
                if not folder.lasting:
                    folder.remove(MARK)
                raise
            folder.remove(MARK)


def opening(recipe: Recipe, out: Path, overwrite: bool, resume: bool) -> Opening:
    """A folder that may be written to; with ``resume`` an interrupted run's, and its state.

    A launch that torchrun has restarted goes on unasked with what it has begun itself, and nothing else. Raises
    ValueError for a folder that cannot be had, that was begun with other settings, or whose files do not fit together.
    """
    if resume and overwrite:
        raise ValueError("choose --resume or --overwrite, not both")
    if resume:
        folder = OutputFolder.reopen(out, STATE)
        if (folder.root / SCORES).is_file():
            raise ValueError(
                f"{out} holds a finished run; train anew with --overwrite, or elsewhere"
            )
        return _gone_on_with(recipe, folder)
    own = _begun_by_this_launch(out)
    if own is None:
        return Opening(replace(OutputFolder.claim(out, overwrite), passing=FIRST, sign=STATE))
    if (own.root / STATE).is_file():
        return _gone_on_with(recipe, own)
    return Opening(replace(own, existed=False))  # it was lost before its first epoch


def require_finished(run: Path) -> None:
    """Raise ValueError where files of a finished run are missing."""
    missing = [name for name in (HISTORY, SCORES) if not (run / name).is_file()]
    if missing:
        way = "go on with it (keelnet train … --resume)" if interrupted(run) else "train again"
        raise ValueError(f"{run} is not finished: {', '.join(missing)} missing; {way}")


def interrupted(run: Path) -> bool:
    """Whether a state lies there to go on from, of the run itself or of one that was to replace it."""
    return any((root / STATE).is_file() for root in (run, run / STAGING))


def _begun_by_this_launch(out: Path) -> OutputFolder | None:
    name = launch()
    if name is None:
        return None
    try:
        folder = OutputFolder.reopen(out, MARK)
    except ValueError:
        return None
    return folder if (folder.root / MARK).read_text(encoding="utf-8") == name else None


def _gone_on_with(recipe: Recipe, folder: OutputFolder) -> Opening:
    state = earlier(recipe, folder)
    return Opening(folder, state, history(folder.root / HISTORY, state.epoch))


def earlier(recipe: Recipe, folder: OutputFolder) -> State:
    """The state that an interrupted run of this recipe left."""
    try:
        left = Recipe.from_toml((folder.root / "recipe.toml").read_text(encoding="utf-8"))
        kept = torch.load(folder.root / STATE, map_location="cpu", weights_only=True)
        state = State(**kept)
    except Exception as error:  # bytes that are no state may make the reader raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder.root} cannot be gone on with: {reason}; {ANEW}") from None
    if not left.same_as(recipe):
        changed = [key for key, value in asdict(recipe).items() if asdict(left)[key] != value]
        raise ValueError(
            f"{folder.root} was begun with other settings ({', '.join(changed)}); resume with its own"
        )
    return state


def history(path: Path, epoch: int) -> list[dict[str, Any]]:
    """The lines up to the state of this epoch: one more may have been written before the end came.

    Raises ValueError where these are not its epochs.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:epoch]
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        whole = bool(found) and all(line.keys() >= LINE for line in found)
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; {ANEW}") from None
    if not whole or [line["epoch"] for line in found] != list(range(1, epoch + 1)):
        raise ValueError(f"{path} does not hold the epochs up to {epoch}, that of {STATE}; {ANEW}")
    return found


def state_as_bytes(state: State) -> bytes:
    """What `earlier` reads."""
    file = io.BytesIO()
    torch.save({each.name: getattr(state, each.name) for each in fields(state)}, file)
    return file.getvalue()
