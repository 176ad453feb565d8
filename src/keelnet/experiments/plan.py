"""The plan: memory and time of a run, known before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from keelnet.experiments.ledger import Ledger, Line, Weights
from keelnet.experiments.parts import (
    case_bytes,
    largest_part,
    smallest_part,
    voxels_of,
)
from keelnet.experiments.problems import network_of
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.rehearsal import Measured, Rehearsal, rehearsed
from keelnet.experiments.schemes import coarsest
from keelnet.experiments.spaces import widths_of
from keelnet.experiments.tasks import Report
from keelnet.experiments.tumours import require_settings

MARGIN = 0.1  # a plan fits where this much more would fit too
VOXELS = 1_100_000  # of scans that a rehearsal computes on, at most
KEPT = 1 << 29  # bytes that a rehearsal keeps for the backward pass, about
# Their classifier is fitted to a batch, which has to hold more than one class: only the whole one is rehearsed.
FITTED = ("varpro", "block_descent")
BRIEF = 2  # epochs of the rehearsal of a recipe whose process is known

Rehearse = Callable[[Rehearsal], Measured]


@dataclass(frozen=True)
class Plan:
    """What a recipe will take.

    ledger: bytes at the peak. seconds: of a step. apart: bytes of the peak that are not private to the training
    process: files of libraries and of a case, other processes. rehearsed: shares of the batch that were measured.
    """

    recipe: Recipe
    ledger: Ledger
    seconds: float
    apart: int
    rehearsed: tuple[float, ...]

    @property
    def wanted(self) -> int:
        """Bytes that the machine should have for it: the peak and the margin."""
        return math.ceil((1 + MARGIN) * self.ledger.peak)

    def fits(self, memory: int) -> bool:
        """Whether this many bytes hold it and the margin."""
        return self.wanted <= memory

    def as_table(self) -> dict[str, Any]:
        """Plain values for JSON: bytes and seconds."""
        return {
            "recipe": self.recipe.as_table(),
            "bytes": asdict(self.ledger),
            "peak_bytes": self.ledger.peak,
            "growth_bytes": self.ledger.growth,
            "with_margin_bytes": self.wanted,
            "seconds_a_step": self.seconds,
            "rehearsed_shares": list(self.rehearsed),
        }


def plan(
    recipe: Recipe,
    report: Report = lambda line: None,
    known: Plan | None = None,
    rehearse: Rehearse = rehearsed,
) -> Plan:
    """The plan of a recipe, by rehearsing its first steps in processes of their own.

    First on next to nothing, then on the whole batch, or on a part of it where that is large: peaks and seconds are
    affine in the share, so that a run can be planned on a machine that could not hold it. Of a ``known`` plan
    of another patch or width the first is taken over. Raises ValueError for a recipe that cannot work, for a
    folder that is not there (what lies in one is not read), and on devices and systems where memory is not measured.
    """
    if recipe.device != "cpu":
        raise ValueError(f"memory is planned for device cpu, got {recipe.device!r}")
    if recipe.batch < 1:
        raise ValueError(
            f"a batch is planned (all samples at once are not): use batch=1 or more, got {recipe.batch}"
        )
    if recipe.on_scans:
        require_settings(recipe)
    if recipe.folder and not Path(recipe.folder).exists():
        raise ValueError(f"folder {recipe.folder} does not exist")
    coarsest(recipe)  # a rehearsal has one level: layers that cannot be halved are refused here
    parameters = sum(value.nbytes for value in network_of(recipe).parameters())
    found: list[tuple[float, Measured]] = []
    small: Rehearsal | None = None
    if recipe.method in FITTED:
        kept = 0
    elif known is None:
        small = smallest_part(recipe)
        report(f"rehearsing a few steps on {_described(small)}")
        found.append((small.share, rehearse(small)))
        kept = round((found[0][1].kept + found[0][1].batch) / small.share)
    else:
        kept = _kept_as(known, recipe)
    part = largest_part(recipe, _share(recipe, kept))
    part = part if known is None else replace(part, epochs=BRIEF)
    # A patch of two units is a small part itself, but what validation shows is not.
    if small is None or part.share > small.share or part.tile != small.tile:
        report(f"rehearsing a few steps on {_described(part)}")
        if small is not None and part.share <= small.share:
            found.clear()  # two points of one share make no line
        found.append((part.share, rehearse(part)))
    return _planned(recipe, parameters, found, known)


def _planned(
    recipe: Recipe, parameters: int, found: list[tuple[float, Measured]], known: Plan | None
) -> Plan:
    """What the measured shares say of the whole."""
    weights = Weights(parameters, found[-1][1].optimiser, recipe.average is not None)
    start: list[tuple[float, float]] = []
    if known is not None:
        start = [(0.0, known.ledger.process + weights.bytes)]
    elif len(found) == 1:  # what is surely of the batch is none of the process
        one = found[0][1]
        start = [(0.0, max(0, one.trained - one.kept - one.batch))]
    lines = [
        Line.through([*start, *((share, getattr(one, phase)) for share, one in found)])
        for phase in ("trained", "judged", "finished")
    ]
    share, largest = found[-1]
    rising = Line.through([(part, one.workers) for part, one in found])
    workers = max(largest.workers, round(rising.at(1)))
    data = round(largest.batch / share) + case_bytes(recipe) + workers
    peak = max(round(line.at(1)) for line in lines) + case_bytes(recipe) + workers
    process = max(0, round(lines[0].constant) - weights.bytes)
    slow = Line.through([(part, one.seconds) for part, one in found])
    return Plan(
        recipe,
        weights.ledger(process, round(largest.kept / share), data, peak),
        max(largest.seconds, slow.at(1) if len(found) > 1 else largest.seconds / share),
        largest.files + case_bytes(recipe) + workers,
        tuple(share for share, _ in found),
    )


def _share(recipe: Recipe, kept: int) -> float:
    """Of the batch that is rehearsed: as much as the bounds allow."""
    return min(1.0, KEPT / max(1, kept), VOXELS / max(1, voxels_of(recipe)))


def _kept_as(known: Plan, recipe: Recipe) -> int:
    """About what a recipe of another patch or width will keep for the backward pass."""
    wider = sum(widths_of(recipe)) / sum(widths_of(known.recipe))
    larger = max(1, voxels_of(recipe)) / max(1, voxels_of(known.recipe))
    return round(known.ledger.activations * wider * larger)


def _described(part: Rehearsal) -> str:
    if part.patch is None:
        return f"a batch of {part.batch}"
    return f"{part.batch} × {' × '.join(map(str, part.patch))} voxels"
