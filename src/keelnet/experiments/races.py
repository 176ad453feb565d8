"""Races: one recipe trained in several ways: how long each takes to where another ends."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

from keelnet.analysis.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from keelnet.experiments.comparison import Group
from keelnet.experiments.pictures import png

WAYS = ("method", "levels")  # settings that say how a recipe is trained
COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK)
NOTE = """\
Seconds leave out the validations. *Objective*: median over seeds of its least value. *To its objective*, *to equal accuracy*:
seconds to the least objective of the first way, and to the best validation accuracy that both reach, seed by seed, of those that
the first way itself takes to there; medians over seeds, in brackets that of the share.
"""


@dataclass(frozen=True)
class Course:
    """One run: seconds without validations, objective and validation accuracy, epoch by epoch."""

    seconds: tuple[float, ...]
    objective: tuple[float, ...]
    accuracy: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Course:
        """Of the run in a folder."""
        text = (folder / "history.jsonl").read_text(encoding="utf-8")
        lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        return cls(
            tuple(line["seconds"] - line.get("judging", 0.0) for line in lines),
            tuple(sum(line["terms"].values()) for line in lines),
            tuple(line["scores"]["accuracy"] or 0.0 for line in lines),
        )

    def until_objective(self, value: float) -> float | None:
        """Seconds to this objective or less; None where it is not reached."""
        return next(
            (s for s, o in zip(self.seconds, self.objective, strict=True) if o <= value), None
        )

    def until_accuracy(self, value: float) -> float | None:
        """Seconds to this accuracy or more; None where it is not reached."""
        return next(
            (s for s, a in zip(self.seconds, self.accuracy, strict=True) if a >= value), None
        )


@dataclass(frozen=True)
class Way:
    """A group of runs as a contestant: its name and its courses by seed."""

    name: str
    courses: dict[int, Course]


@dataclass(frozen=True)
class Arrival:
    """Seconds that a way took to where the first one was after ``first``, and their share; medians over seeds."""

    seconds: float
    first: float
    share: float


@dataclass(frozen=True)
class Standing:
    """What a way did against the first one; medians over the seeds of both; None where a seed did not arrive."""

    objective: float
    accuracy: float
    to_objective: Arrival | None
    to_accuracy: Arrival | None


def races(groups: Sequence[Group]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Markdown by recipe, and pictures by file name, of recipes whose groups differ in `WAYS`."""
    texts: dict[str, str] = {}
    pictures: dict[str, bytes] = {}
    for recipe, field, ways in _contests(groups):
        if len(ways) > 1:
            file = re.sub(r"[^\w.-]+", "-", f"{recipe}-race-{'-'.join(field)}.png")
            title = ", ".join(field).replace("_", " ")
            pictures[file] = picture(f"{recipe}, {title}", ways)
            text = f"### {recipe}, {title}: ways of training\n\n{NOTE}\n{as_table(ways)}"
            texts[recipe] = texts.get(recipe, "") + f"{text}\n![{recipe}, {title}: ways]({file})\n"
    return texts, pictures


def _contests(groups: Sequence[Group]) -> Iterator[tuple[str, tuple[str, ...], list[Way]]]:
    """The ways of each recipe on one field: an architecture, and the folder of data where these differ."""

    def place(group: Group) -> tuple[str, tuple[str, ...]]:
        folder = group.settings.get("folder")
        return group.recipe, (group.architecture, *([folder] if folder else []))

    for recipe, field in dict.fromkeys(map(place, groups)):
        yield recipe, field, raced([each for each in groups if place(each) == (recipe, field)])


def raced(groups: Sequence[Group]) -> list[Way]:
    """The ways of a recipe and architecture, adam on all layers first; none where they differ in no `WAYS`."""
    keys = {key for group in groups for key in group.settings}
    if not keys & set(WAYS):
        return []
    places = sorted(groups, key=_place)
    names = [_name(group) for group in places]
    full = [
        ", ".join(f"{key} {value}" for key, value in group.settings.items()) for group in places
    ]
    ways = [
        Way(name if names.count(name) == 1 else whole, _courses(group))
        for name, whole, group in zip(names, full, places, strict=True)
    ]
    return [way for way in ways if way.courses]


def _place(group: Group) -> tuple[bool, bool]:
    return group.settings.get("method", "adam") != "adam", group.settings.get("levels", 1) != 1


def _name(group: Group) -> str:
    """The settings that set it apart, the method by its name alone."""
    parts: list[str] = []
    for key, value in group.settings.items():
        if key == "method":
            parts.insert(0, str(value).replace("_", " "))
        elif key == "levels":
            parts.append("1 level" if value == 1 else f"{value} levels")
    return ", ".join(parts)


def _courses(group: Group) -> dict[int, Course]:
    finished = [each for each in group.outcomes if each.scores is not None]
    courses = {each.recipe.seed: Course.read(each.folder) for each in finished}
    if len(courses) < len(finished):
        raise ValueError(
            f"two runs of {group.recipe} in one row share a seed; collect each run once"
        )
    return courses


def standing(first: Way, way: Way) -> Standing:
    """How a way stands against the first one."""
    pairs = [
        (first.courses[seed], own) for seed, own in way.courses.items() if seed in first.courses
    ]
    every = way.courses.values()
    goals = [min(each.objective) for each, _ in pairs]
    levels = [min(max(each.accuracy), max(own.accuracy)) for each, own in pairs]
    return Standing(
        statistics.median(min(each.objective) for each in every),
        statistics.median(max(each.accuracy) for each in every),
        _median(
            (each.until_objective(goal), own.until_objective(goal))
            for (each, own), goal in zip(pairs, goals, strict=True)
        ),
        _median(
            (each.until_accuracy(level), own.until_accuracy(level))
            for (each, own), level in zip(pairs, levels, strict=True)
        ),
    )


def _median(times: Any) -> Arrival | None:
    """Of pairs of the first way's seconds and its own; None where one did not arrive."""
    found = list(times)
    if not found or any(own is None for _, own in found):
        return None
    return Arrival(
        statistics.median(own for _, own in found),
        statistics.median(first for first, _ in found),
        statistics.median(own / max(first, 1e-9) for first, own in found),
    )


def as_table(ways: Sequence[Way]) -> str:
    """Markdown: a row a way."""
    rows = [
        "| way | seeds | objective | best accuracy, % | to its objective, s | to equal accuracy, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way in ways:
        found = standing(ways[0], way)
        cells = (
            way.name,
            str(len(way.courses)),
            f"{found.objective:.4g}",
            f"{100 * found.accuracy:.1f}",
            _time(found.to_objective),
            _time(found.to_accuracy),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def savings(groups: Sequence[Group]) -> list[str]:
    """A line a way: the share of the first way's time that it saved to the accuracy that both reach."""
    lines = []
    for recipe, field, ways in _contests(groups):
        for way in ways[1:]:
            found = standing(ways[0], way)
            if found.to_accuracy is not None:
                saved = 100 * (1 - found.to_accuracy.share)
                lines.append(
                    f"{recipe}, {', '.join(field)}: {way.name} saves {saved:.0f} % of the time of {ways[0].name}"
                    f" to equal accuracy ({100 * found.accuracy:.1f} % at its best)"
                )
    return lines


def _time(found: Arrival | None) -> str:
    if found is None:
        return "not reached"
    return f"{found.seconds:.3g} of {found.first:.3g} ({found.share:.2f})"


def picture(recipe: str, ways: Sequence[Way]) -> bytes:
    """Objective and validation error against seconds, a colour a way, a line a seed."""
    return png(drawn(recipe, ways))


def drawn(recipe: str, ways: Sequence[Way]) -> Figure:
    """The figure of `picture`; no error at all is drawn at half the least one there is, with a tick that says 0."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    figure.suptitle(f"Recipe {recipe}: a line a seed, validations left out of the seconds")
    objective, error = figure.subplots(1, 2)
    every = [1 - value for way in ways for each in way.courses.values() for value in each.accuracy]
    nothing = min((100 * value for value in every if value > 0), default=100.0) / 2
    for number, way in enumerate(ways):
        colour = COLOURS[number % len(COLOURS)]
        style = "-" if number < len(COLOURS) else "--"
        for place, course in enumerate(way.courses.values()):
            line = {"color": colour, "linestyle": style, "linewidth": 1.2}
            label = way.name if place == 0 else None
            objective.plot(course.seconds, course.objective, label=label, **line)
            missing = [100 * (1 - value) or nothing for value in course.accuracy]
            error.plot(course.seconds, missing, **line)
    _labelled(objective, "objective")
    _labelled(error, "validation error, %")
    if min(every) <= 0:
        _end_at_zero(error, nothing)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _end_at_zero(axes: Axes, place: float) -> None:
    """A tick at this place that says 0, and none below."""

    def label(value: float, _: Any) -> str:
        return "0" if value <= place * (1 + 1e-9) else f"{value:g}"

    axes.set_ylim(bottom=place * 0.98)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(FixedLocator([place]))
    axes.yaxis.set_major_formatter(label)
    axes.yaxis.set_minor_formatter(label)


def _labelled(axes: Axes, name: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel=name)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, which="both")
