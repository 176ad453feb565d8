"""Fits: the largest patch and the largest width that a memory has room for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from keelnet.experiments.ledger import Line, as_text
from keelnet.experiments.parts import brain_of, case_bytes
from keelnet.experiments.plan import MARGIN, Plan, Rehearse, plan
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.rehearsal import UnrehearsedError, rehearsed
from keelnet.experiments.resident import says_no_memory
from keelnet.experiments.spaces import patch_of, unit_of, widths_of
from keelnet.experiments.tasks import Report

LARGEST_SIDE = 256  # of a patch that is proposed: no brain is longer at 1 mm
LARGEST_WIDTH = 1024  # of the finest level
TRIES = 2


@dataclass(frozen=True)
class Ladder:
    """A recipe at every size of one setting, ``key``: ``recipe(n)`` for n = 1 … most, of which it has ``own`` now.

    load(n): how its memory grows with n, up to a factor; floor: bytes that do not.
    """

    key: str
    own: float
    most: int
    load: Callable[[float], float]
    floor: int
    recipe: Callable[[int], Recipe]


def patches(planned: Plan) -> Ladder:
    """Cubic patches, a unit a rung; memory grows with the voxels."""
    recipe, unit = planned.recipe, unit_of(planned.recipe)
    longest = min(LARGEST_SIDE, max(brain_of(recipe)))  # beyond a brain there is nothing to see
    return Ladder(
        "patch",
        math.prod(patch_of(recipe)) ** (1 / 3) / unit,
        -(-longest // unit),
        lambda n: n**3,
        planned.ledger.process + _weights(planned) + case_bytes(recipe),
        lambda n: replace(recipe, patch=(n * unit,)),
    )


def widths(planned: Plan) -> Ladder:
    """Widths in proportion, two channels of the finest level a rung; states grow with them, weights with their square."""
    recipe, own = planned.recipe, widths_of(planned.recipe)[0] / 2
    weights, floor = _weights(planned), planned.ledger.process + case_bytes(recipe)

    def at(n: int) -> Recipe:
        scaled = [max(2, 2 * round(n * width / (2 * own))) for width in widths_of(recipe)]
        return replace(recipe, width=scaled[0] if isinstance(recipe.width, int) else tuple(scaled))

    def load(n: float) -> float:
        return weights * (n / own) ** 2 + (planned.ledger.peak - floor - weights) * n / own

    return Ladder("width", own, LARGEST_WIDTH // 2, load, floor, at)


def _weights(planned: Plan) -> int:
    ledger = planned.ledger
    return ledger.parameters + ledger.gradients + ledger.optimiser + ledger.weights_kept


def largest(
    planned: Plan,
    ladder: Ladder,
    memory: int,
    report: Report = lambda line: None,
    rehearse: Rehearse = rehearsed,
) -> Plan | None:
    """The plan of the highest rung that fits; None where the lowest does not either.

    A guess is rehearsed, and where it does not fit a lower one, `TRIES` times at most: where memory does not grow as
    the ladder says, a rung or two above may fit as well. One that this machine cannot rehearse, which may have less
    memory than is asked about, does not fit, and no rung above half of it is tried.
    """
    if memory <= (1 + MARGIN) * planned.ledger.process:
        return None
    found: dict[float, Plan] = {ladder.own: planned}
    for _ in range(TRIES):
        rung = _guess(ladder, found, memory)
        if rung is None:
            break
        tried = _tried(planned, ladder, rung, report, rehearse)
        if tried is None:
            ladder = replace(ladder, most=rung // 2)
            continue
        found[rung] = tried
        if tried.fits(memory):
            break
    if (
        1 not in found
        and ladder.most >= 1
        and not any(each.fits(memory) for each in found.values())
    ):
        least = _tried(planned, ladder, 1, report, rehearse)
        found |= {} if least is None else {1: least}
    fitting = [rung for rung, each in found.items() if each.fits(memory)]
    return found[max(fitting)] if fitting else None


def _tried(
    planned: Plan, ladder: Ladder, rung: int, report: Report, rehearse: Rehearse
) -> Plan | None:
    """The plan of a rung; None where it cannot be built or rehearsed here, which is said."""
    recipe = ladder.recipe(rung)
    try:
        return plan(recipe, report, planned, rehearse)
    except ValueError as error:
        unbuilt = isinstance(error.__cause__, Exception) and says_no_memory(error.__cause__)
        if not (unbuilt or isinstance(error, UnrehearsedError)):
            raise
        setting = f"{ladder.key}={setting_of(recipe, ladder.key)}"
        report(f"{setting} counts as too large, since it is for this machine: {error}")
        return None


def _guess(ladder: Ladder, found: dict[float, Plan], memory: int) -> int | None:
    """The highest rung that should fit, above those that do and below those that do not."""
    wanted = memory / (1 + MARGIN)
    near = sorted(found, key=lambda rung: abs(found[rung].ledger.peak - wanted))[:2]
    points = [(ladder.load(rung), float(found[rung].ledger.peak)) for rung in near]
    if len(points) == 1:
        points.append((0.0, float(ladder.floor)))
    line = Line.through(points)
    low = max((rung for rung in found if found[rung].fits(memory)), default=0.0)
    high = min((rung for rung in found if not found[rung].fits(memory)), default=math.inf)
    for rung in range(ladder.most, 0, -1):
        if low < rung < high and line.at(ladder.load(rung)) <= wanted:
            return rung
    return None


def advice(
    planned: Plan,
    memory: int,
    report: Report = lambda line: None,
    rehearse: Rehearse = rehearsed,
) -> dict[str, Plan | None]:
    """The plans that make the most of a memory: by "patch" (of recipes on scans) and by "width"."""
    ladders = [widths(planned)]
    if planned.recipe.on_scans:
        ladders.insert(0, patches(planned))
    return {each.key: largest(planned, each, memory, report, rehearse) for each in ladders}


def as_sentence(planned: Plan, memory: int, found: dict[str, Plan | None]) -> str:
    """Whether the recipe fits, and what would."""
    verdict = "fits" if planned.fits(memory) else "does not fit"
    need = f"{as_text(planned.wanted)} with {MARGIN:.0%} to spare"
    begin = f"{planned.recipe.name} {verdict} {as_text(memory)}: it needs {need}"
    settings = [
        f"--set {key}={setting_of(best.recipe, key)}"
        for key, best in found.items()
        if best is not None
    ]
    if settings:
        return f"{begin}; the largest that fits is {' or '.join(settings)}"
    least = (1 + MARGIN) * planned.ledger.process
    reason = f"the process alone wants {as_text(least)}"
    if least < memory:
        reason = "the smallest wants more, too"
        reason += " (validation shows whole brains: a larger spacing wants less)" * (
            "patch" in found
        )
    return f"{begin}; no {' and no '.join(found)} fits, since {reason}: give it more memory"


def setting_of(recipe: Recipe, key: str) -> str:
    """A setting as it is written after --set."""
    value = getattr(recipe, key)
    if isinstance(value, int):
        return str(value)
    short = value[:1] if key == "patch" and len(set(value)) == 1 else value
    return ",".join(map(str, short))


def require_within(
    recipe: Recipe,
    memory: int,
    report: Report = lambda line: None,
    rehearse: Rehearse = rehearsed,
) -> Plan:
    """The plan of a recipe that fits in these bytes; raises ValueError that says what fits instead."""
    planned = plan(recipe, report, rehearse=rehearse)
    if not planned.fits(memory):
        found = advice(planned, memory, report, rehearse)
        raise ValueError(as_sentence(planned, memory, found))
    return planned
