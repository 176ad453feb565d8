"""Openings: the folder that a run begins in, new or left by an interrupted one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.recipes import Recipe
from keelnet.learning.descent import State
from keelnet.learning.launches import launch, restarts_left

STATE = "state.pt"  # of a run that is not finished
SCORES = "scores.json"  # of one that is
MARK = ".launch"  # holds the name of the torchrun that has begun it


@dataclass(frozen=True)
class Opening:
    """Where a run writes, and the state that it goes on from."""

    folder: OutputFolder
    earlier: State | None = None

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
    ValueError for a folder that cannot be had, or that was begun with other settings.
    """
    if resume and overwrite:
        raise ValueError("choose --resume or --overwrite, not both")
    if resume:
        folder = OutputFolder.reopen(out, STATE)
        if (folder.root / SCORES).is_file():
            raise ValueError(
                f"{out} holds a finished run; train anew with --overwrite, or elsewhere"
            )
        return Opening(folder, earlier(recipe, folder))
    own = _begun_by_this_launch(out)
    if own is None:
        return Opening(OutputFolder.claim(out, overwrite))
    if (own.root / STATE).is_file():
        return Opening(own, earlier(recipe, own))
    return Opening(replace(own, existed=False))  # it was lost before its first epoch


def _begun_by_this_launch(out: Path) -> OutputFolder | None:
    name = launch()
    if name is None:
        return None
    try:
        folder = OutputFolder.reopen(out, MARK)
    except ValueError:
        return None
    return folder if (folder.root / MARK).read_text() == name else None


def earlier(recipe: Recipe, folder: OutputFolder) -> State:
    """The state that an interrupted run of this recipe left."""
    try:
        left = Recipe.from_toml((folder.root / "recipe.toml").read_text())
        state = torch.load(folder.root / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no state may make the reader raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder.root} cannot be gone on with: {reason}") from None
    if left != recipe:
        changed = [key for key, value in asdict(recipe).items() if asdict(left)[key] != value]
        raise ValueError(
            f"{folder.root} was begun with other settings ({', '.join(changed)}); resume with its own"
        )
    return State(**state)


def state_as_bytes(state: State) -> bytes:
    """What `earlier` reads."""
    file = io.BytesIO()
    torch.save({each.name: getattr(state, each.name) for each in fields(state)}, file)
    return file.getvalue()
