"""Costs: bytes and seconds of a training step, as they are trained and against depth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from cells import table, title_of
from contestants import DEPTHS
from jobs import Record
from scores import Score
from settings import Settings


def costs(settings: Settings, scores: Sequence[Score]) -> Iterator[str]:
    """The sections of those that there are."""
    if any(one.memory for one in scores):
        yield from ("## Memory", "", *_memory(settings, scores), "")
    if any(one.pace for one in scores):
        yield from ("## Seconds", "", *_pace(settings, scores), "")
    if any(one.contestant.role == "weighed" and (one.memory or one.pace) for one in scores):
        yield "At other depths the peers are weighed and not trained: trained they are as their documentation has them, and a Dice"
        yield "of designs that nobody proposes would say nothing of them."
        yield ""


def milliseconds(pace: Record) -> float:
    """Median of its steps."""
    return 1e3 * statistics.median(pace["step_seconds"])


def _memory(settings: Settings, scores: Sequence[Score]) -> Iterator[str]:
    yield f"A training step on {settings.batch} × 4 × {settings.side}³ in a fresh process: MB saved for backward, and MB by which the"
    yield "process grows at most, where free pieces of 8 MB and more go back to the system at once (glibc's M_MMAP_THRESHOLD)."
    yield ""
    rows = [
        (title_of(one), f"{one.memory['parameters']:,}", _mb(one.memory, "saved_bytes"), _mb(one.memory, "peak_bytes"))
        for one in scores
        if one.memory and not one.contestant.family
    ]  # fmt: skip
    yield from table(("", "parameters", "saved for backward", "peak growth"), rows)
    yield from _by_depth(scores, lambda one: one.memory, "saved for backward / peak growth", _both)


def _pace(settings: Settings, scores: Sequence[Score]) -> Iterator[str]:
    clock = "the process on one thread" if settings.clock == "cpu" else "the day"
    crop = settings.crop
    yield f"A training step on {settings.batch} × 4 × {crop}³, loading left out, in ms of {clock}: the median of steps that follow each other in a"
    yield "process of its own, the least and the most; one process at a time. keelnet's over another's says how much it is faster."
    yield ""
    ours = next((one.pace for one in scores if one.contestant.role == "ours"), None)
    rows = []
    for one in scores:
        if one.pace and not one.contestant.family:
            share = "–" if ours is None else f"{milliseconds(ours) / milliseconds(one.pace):.2f}"
            rows.append((title_of(one), f"{one.pace['parameters']:,}", _spread(one.pace), share))
    yield from table(("", "parameters", "ms a step", "keelnet's over it"), rows)
    yield from _by_depth(scores, lambda one: one.pace, "ms a step", _spread)


def _by_depth(
    scores: Sequence[Score],
    measured: Callable[[Score], Record | None],
    title: str,
    cell: Callable[[Record], str],
) -> Iterator[str]:
    """A row a family."""
    families: dict[str, dict[int, str]] = {}
    for one in scores:
        found = measured(one)
        if one.contestant.family and found:
            families.setdefault(one.contestant.family, {})[one.contestant.layers] = cell(found)
    if families:
        yield from ("", f"At so many layers a stage, {title}:", "")
        rows = [(name, *[cells.get(depth, "–") for depth in DEPTHS]) for name, cells in families.items()]  # fmt: skip
        yield from table(("", *map(str, DEPTHS)), rows)


def _both(memory: Record) -> str:
    return f"{_mb(memory, 'saved_bytes')} / {_mb(memory, 'peak_bytes')}"


def _mb(memory: Record, entry: str) -> str:
    return f"{memory[entry] / 1e6:,.0f}"


def _spread(pace: Record) -> str:
    least, most = 1e3 * min(pace["step_seconds"]), 1e3 * max(pace["step_seconds"])
    return f"{milliseconds(pace):,.0f} ({least:,.0f} … {most:,.0f})"
