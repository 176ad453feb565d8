"""The rehearsal: the first steps of a training in a process of its own, with its memory and time measured."""

from __future__ import annotations

import ctypes
import io
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from keelnet.data.samples import WHOLE, Batch, Share, Source
from keelnet.experiments.resident import STATUS, peak_since, private_of_children, status_of

if TYPE_CHECKING:
    from keelnet.data.prepared import Volume
    from keelnet.experiments.problems import Problem
    from keelnet.experiments.recipes import Recipe
    from keelnet.experiments.scan_sets import ScanSet

STEPS, EPOCHS = 2, 4  # what comes and goes leaves gaps: the heap has about its size after these
SMALLER = (
    7 / 8
)  # sides of a second volume that is validated: buffers of one size do not serve another
LARGEST_ON_HEAP = 1 << 25  # glibc never takes a larger piece from its heap


@dataclass(frozen=True)
class Rehearsal:
    """Which share of a recipe's work to do, and what its network is shown.

    share: of the voxels or samples of a batch, above 0 and up to 1. batch: samples. patch, tile: of recipes on scans,
    the sides trained on, and those of the volume that is validated, in one tile. epochs: of two steps each.

    A share below 1 is a scale model: glibc, the engines' pool and the segmenter's finest level treat pieces of memory
    by their size, so their limits are scaled with the share, and each piece goes where the whole one would.
    """

    recipe: dict[str, Any]
    share: float
    batch: int
    patch: tuple[int, int, int] | None = None
    tile: tuple[int, int, int] | None = None
    epochs: int = EPOCHS


@dataclass(frozen=True)
class Measured:
    """What a rehearsal found, in bytes and seconds.

    trained, judged, finished: the peak of training, of validation, and of the scores and pictures at the end.
    optimiser: its state. kept: saved for backward, without the batch; batch: x and labels. workers: private to all
    processes that cut patches. files: resident at the end, of libraries above all. first, seconds: of the first
    step, and of the fastest that followed.
    """

    trained: int
    judged: int
    finished: int
    optimiser: int
    kept: int
    batch: int
    workers: int
    files: int
    first: float
    seconds: float


class UnrehearsedError(ValueError):
    """The first steps failed, for want of memory above all: of a recipe that a larger machine may take."""


def rehearsed(rehearsal: Rehearsal) -> Measured:
    """Rehearse in a fresh process.

    Raises `UnrehearsedError` where that fails, and ValueError where this system cannot measure.
    """
    if not STATUS.exists():
        raise ValueError(
            "memory is measured by /proc, which only Linux has; plan on such a machine"
        )
    found = _process(rehearsal)
    if found.first > 2 + 5 * found.seconds:
        # Code was compiled, which takes memory; it is kept on disk, so the training will not.
        found = _process(rehearsal)
    return found


def _process(rehearsal: Rehearsal) -> Measured:
    done = subprocess.run(
        [sys.executable, "-m", "keelnet.experiments.rehearsal"],
        input=json.dumps(asdict(rehearsal)),
        capture_output=True,
        text=True,
        check=False,
        env={"GOMP_SPINCOUNT": "10000"} | _alone(),
    )
    lines = done.stdout.splitlines()
    answer = json.loads(lines[-1]) if lines else {}
    if done.returncode or "trained" not in answer:
        reason = answer.get("error") or (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise UnrehearsedError(f"the recipe cannot be rehearsed: {reason}")
    return Measured(**answer)


def _alone() -> dict[str, str]:
    """The environment, without what makes a process one of several that train together."""
    several = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    return {key: value for key, value in os.environ.items() if key not in several}


@dataclass
class _Few:
    """The first steps of a source's epochs, the seconds of each, and the last step, whose batch may be smaller."""

    source: Source
    seconds: list[float] = field(default_factory=list)
    workers: int = 0

    @property
    def count(self) -> int:
        """As many as the source's epochs have: the rates are then those of a run."""
        return self.source.count

    def batches(
        self, batch_size: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Iterator[Batch]:
        left = self.source.batches(batch_size, generator, share)
        begin = time.perf_counter()
        for batch in islice(left, STEPS):
            self.workers = max(self.workers, private_of_children())
            yield batch
            end = time.perf_counter()
            self.seconds.append(end - begin)
            begin = end
        yield from deque(left, maxlen=1)


def _rehearse(rehearsal: Rehearsal) -> Measured:
    """In the fresh process: what `keelnet train` makes and does, for a few steps."""
    from keelnet.experiments.pictures import curves
    from keelnet.experiments.runs import as_line, weights_as_bytes

    recipe = _recipe(rehearsal)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    _scale(rehearsal.share)
    made = _problem(recipe, rehearsal)
    network, few = made.network, _Few(made.task.source)
    generator = torch.Generator().manual_seed(recipe.seed)
    trained, judged = [], []

    def validate(network: nn.Module) -> dict[str, float]:
        trained.append(peak_since())
        return made.task.validated(network)

    for progress in made.scheme.steps(network, made.objective, few, validate, generator):
        weights_as_bytes(progress.state.kept)
        torch.save(vars(progress.state), io.BytesIO())
        judged.append(peak_since())
    curves(recipe.name, [as_line(progress) | {"best": True}])
    made.task.final_scores(network, progress.scores)
    made.task.pictures(network)
    finished, files = peak_since(), status_of("RssFile")
    kept, batch = _kept(made, rehearsal.batch, generator)
    first, *later = few.seconds
    peaks = max(trained), max(judged), finished
    moments = _bytes_in(progress.state.optimiser)
    return Measured(*peaks, moments, kept, batch, few.workers, files, first, min(later or [first]))


def _bytes_in(tree: Any) -> int:
    """Of the tensors in a nest of dictionaries and lists."""
    from torch.utils import _pytree as trees

    return sum(getattr(leaf, "nbytes", 0) for leaf in trees.tree_leaves(tree))


def _kept(made: Problem, batch: int, generator: torch.Generator) -> tuple[int, int]:
    """Bytes saved for the backward pass of one batch, and bytes of the batch."""
    from keelnet.analysis.memory import saved_bytes

    made.network.train()
    x, labels = next(made.task.source.batches(batch, generator))
    own = [*made.network.parameters(), x, labels]
    kept = saved_bytes(
        lambda: made.objective.terms(made.network, made.network(x), labels), excluded=own
    )
    return kept, x.nbytes + labels.nbytes


def _recipe(rehearsal: Rehearsal) -> Recipe:
    """The recipe, for a few epochs of a smaller batch, with all its layers from the start."""
    from keelnet.experiments.recipes import Recipe

    plain: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in rehearsal.recipe.items()
    }
    recipe = replace(Recipe(**plain), batch=rehearsal.batch, levels=1)
    return replace(recipe, epochs=rehearsal.epochs, minutes=None)


def _problem(recipe: Recipe, rehearsal: Rehearsal) -> Problem:
    """The recipe's problem; its cases, if it is on scans, are made up: none is read or prepared."""
    from keelnet.experiments.problems import problem
    from keelnet.experiments.spaces import unit_of
    from keelnet.experiments.tiles import Tiling
    from keelnet.experiments.tumours import Tumour

    patch, tile = rehearsal.patch, rehearsal.tile
    if patch is None or tile is None:
        return problem(recipe)
    scans = _scans(patch, tile)
    few = STEPS * recipe.batch + recipe.patches % recipe.batch
    made = problem(
        replace(recipe, patch=patch, patches=few, judged=2), scans=lambda recipe, report: scans
    )
    assert isinstance(made.task, Tumour)
    made.task.tiling = Tiling(tile, margin=0, unit=unit_of(recipe))
    return made


def _scans(patch: tuple[int, int, int], tile: tuple[int, int, int]) -> ScanSet:
    """A case of a patch to train on, and two to validate, of a tile and before it of somewhat less."""
    from keelnet.experiments.scan_sets import ScanSet

    less = tuple(max(1, int(SMALLER * side)) for side in tile)
    cases: Any = _Cases({"patch": patch, "less": less, "tile": tile})
    return ScanSet(Path(), cases, ("patch",), ("less", "tile"), {})


@dataclass(frozen=True)
class _Cases:
    """Prepared cases that are made up: sides by name."""

    sides: dict[str, Any]

    def volumes(self, names: Sequence[str]) -> list[Volume]:
        return [_volume(self.sides[name]) for name in names]


def _volume(space: tuple[int, int, int]) -> Volume:
    """A volume that takes no memory: one row of numbers, seen again and again, and as many classes."""
    import numpy as np

    from keelnet.data.prepared import Volume

    row = np.random.default_rng(0).normal(size=space[-1])
    x = np.broadcast_to(row.astype(np.float16), (4, *space))
    classes = np.broadcast_to((4 * np.arange(space[-1]) // space[-1]).astype(np.uint8), space)
    return Volume("made-up", x, classes, np.zeros((0, 4), np.int16), (1.0, 1.0, 1.0), Path())


def _scale(share: float) -> None:
    """Let memory be got as a process of 1/share the size gets it."""
    if share == 1:
        return
    with suppress(AttributeError, OSError):  # another libc than glibc has no such limits
        libc = ctypes.CDLL(None)
        largest = int(LARGEST_ON_HEAP * share)
        libc.mallopt(-3, largest)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2 * largest)  # M_TRIM_THRESHOLD
    from keelnet.networks import segmentation
    from keelnet.propagation.engines import pool

    pool.SMALL, pool.KEPT = int(pool.SMALL * share), int(pool.KEPT * share)
    segmentation.LARGE = int(segmentation.LARGE * share)


def main(text: str) -> int:
    """Rehearse as the JSON says and print what was found as JSON."""
    given = json.loads(text)
    for name in ("patch", "tile"):
        given[name] = given[name] and tuple(given[name])
    try:
        found: dict[str, Any] = asdict(_rehearse(Rehearsal(**given)))
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        found = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
    sys.stdout.write(json.dumps(found) + "\n")
    return 2 if "error" in found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.stdin.read()))
