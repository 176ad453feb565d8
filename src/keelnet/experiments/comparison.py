"""Comparisons: the outcomes of runs that differ only in their seed, with means and spreads."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from keelnet.analysis.tables import plain
from keelnet.experiments.provenance import machine
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.table import AGAIN, ARCHITECTURES, Outcome

APART = ("seed", *AGAIN)  # what runs of one row may differ in
MEASURES = {
    "validation_accuracy": "validation, %",
    "test_accuracy": "test, %",
    "growth": "growth",
    "seconds": "time, s",
    "parameters": "parameters",
}
NOTHING: Mapping[str, str] = {}
NOTE = """\
Mean ± standard deviation over seeds. *Validation*: of the best epoch, chosen by this very score; *test*: of that epoch on
samples that neither training nor the choice has seen. *Noise σ*: accuracy on test samples (withheld ones where there is no
test set) under Gaussian noise of σ standard deviations of the inputs. *Growth*: the largest singular value of the Jacobian
of a block, the largest over blocks and 16 withheld samples. *Time*: of training, with validation after every epoch.
"""


@dataclass(frozen=True)
class Group:
    """Outcomes of one recipe that differ only in their seed; settings: what sets the group apart."""

    recipe: str
    architecture: str
    settings: dict[str, Any]
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> int:
        """How many runs diverged."""
        return sum(outcome.scores is None for outcome in self.outcomes)

    @property
    def noises(self) -> tuple[str, ...]:
        """The levels of noise that there are numbers for."""
        known = [
            outcome.scores["accuracy_under_noise"]
            for outcome in self._finished("accuracy_under_noise")
        ]
        return tuple(known[0]) if known else ()

    def _finished(self, key: str) -> list[Any]:
        return [
            each
            for each in self.outcomes
            if each.scores is not None and each.scores.get(key) is not None
        ]

    def values(self, measure: str) -> list[float]:
        """Of the runs that have it: a key of `MEASURES`, or "noise LEVEL"."""
        if measure.startswith("noise "):
            found = self._finished("accuracy_under_noise")
            level = measure.removeprefix("noise ")
            return [each.scores["accuracy_under_noise"][level] for each in found]
        return [each.scores[measure] for each in self._finished(measure)]

    def mean(self, measure: str) -> float | None:
        values = self.values(measure)
        return statistics.fmean(values) if values else None

    def spread(self, measure: str) -> float | None:
        """The standard deviation over seeds; None for one run."""
        values = self.values(measure)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def measures(self) -> tuple[str, ...]:
        """Those of this group, in the order of the table."""
        first = ("validation_accuracy", "test_accuracy")
        rest = tuple(measure for measure in MEASURES if measure not in first)
        every = (*first, *(f"noise {level}" for level in self.noises), *rest)
        return tuple(measure for measure in every if self.values(measure))


def grouped(outcomes: Iterable[Outcome]) -> list[Group]:
    """Groups by recipe as first met, then by settings, then by architecture."""
    by_recipe: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_recipe.setdefault(outcome.recipe.name, []).append(outcome)
    return [group for name, own in by_recipe.items() for group in _groups(name, own)]


def _groups(name: str, outcomes: Sequence[Outcome]) -> list[Group]:
    keys = [each.name for each in fields(Recipe) if each.name not in (*APART, "architecture")]
    recipes = [outcome.recipe.resolved for outcome in outcomes]
    varied = [key for key in keys if len({getattr(recipe, key) for recipe in recipes}) > 1]
    found: dict[tuple[Any, ...], list[Outcome]] = {}
    for outcome, recipe in zip(outcomes, recipes, strict=True):
        place = (recipe.architecture, *(getattr(recipe, key) for key in varied))
        found.setdefault(place, []).append(outcome)
    shown = _shortened({recipe.folder for recipe in recipes if recipe.folder})
    groups = []
    for place, own in found.items():
        settings = dict(zip(varied, place[1:], strict=True))
        if "folder" in settings:
            settings["folder"] = shown.get(settings["folder"])
        groups.append(Group(name, place[0], settings, tuple(own)))
    return sorted(groups, key=_place)


def _shortened(folders: Iterable[str]) -> dict[str, str]:
    """Whole paths by as few of their last parts as tell them apart."""
    parts = {folder: Path(folder).parts for folder in folders}
    count = 1
    while len({each[-count:] for each in parts.values()}) < len(parts):
        count += 1
    return {folder: Path(*each[-count:]).as_posix() for folder, each in parts.items()}


def _place(group: Group) -> tuple[Any, ...]:
    """Numbers by size, other settings by their text; architectures in their own order."""
    order = [
        (0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value))
        for value in group.settings.values()
    ]
    known = group.architecture in ARCHITECTURES
    return (*order, ARCHITECTURES.index(group.architecture) if known else len(ARCHITECTURES))


def as_json(groups: Sequence[Group], folder: Path) -> str:
    """Everything, run by run, what made them, and where they were collected; paths are relative to ``folder``."""
    content = {
        "made_by": _makers(groups),
        "collected_on": machine(),
        "rows": [
            {
                "recipe": group.recipe,
                "architecture": group.architecture,
                "settings": group.settings,
                "failed": group.failed,
                "mean": {measure: plain(group.mean(measure)) for measure in group.measures},
                "spread": {measure: plain(group.spread(measure)) for measure in group.measures},
                "runs": [
                    {
                        "folder": _relative(outcome.folder, folder),
                        "seed": outcome.recipe.seed,
                        "scores": outcome.scores,
                        "failure": outcome.failure,
                    }
                    for outcome in group.outcomes
                ],
            }
            for group in groups
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def as_markdown(
    groups: Sequence[Group],
    folder: Path,
    pictures: Sequence[str] = (),
    races: Mapping[str, str] = NOTHING,
) -> str:
    """A table a recipe, pictures of its sweep, its races, and pictures of the plane of each row's first run."""
    parts = ["# Recipes and architectures\n", NOTE]
    for name in dict.fromkeys(group.recipe for group in groups):
        own = [group for group in groups if group.recipe == name]
        parts += [f"## {name}\n", _table(own)]
        parts += [
            f"![{name}: the sweep]({each})\n" for each in pictures if each.startswith(f"{name}-")
        ]
        parts += [races[name]] if name in races else []
        if not any(group.settings for group in own):
            parts += _planes(own, folder)
    parts.append(_origin(groups))
    return "\n".join(parts)


def _table(groups: Sequence[Group]) -> str:
    settings = [*dict.fromkeys(key for group in groups for key in group.settings)]
    order = max((group.measures for group in groups), key=len)
    titles = [
        MEASURES.get(measure, f"{measure.replace('noise', 'noise σ =')}, %") for measure in order
    ]
    head = ["architecture", *settings, "runs", *titles]
    rows = [
        [
            group.architecture.replace("_", " "),
            *(str(group.settings[key]) for key in settings),
            f"{len(group.outcomes)}" + (f", {group.failed} diverged" if group.failed else ""),
            *(_cell(group, measure) for measure in order),
        ]
        for group in groups
    ]
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(group: Group, measure: str) -> str:
    mean, spread = group.mean(measure), group.spread(measure)
    if mean is None:
        return "–"
    if measure == "parameters":
        return f"{mean:.0f}"
    if "accuracy" in measure or "noise" in measure:
        return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
    return _figure(mean) + ("" if spread is None else f" ± {_figure(spread)}")


def _figure(value: float) -> str:
    """Three digits, without an exponent up to a million."""
    if not math.isfinite(value) or abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _planes(groups: Sequence[Group], folder: Path) -> list[str]:
    """The decisions of the first finished run of each row."""
    shown = []
    for group in groups:
        first = next(
            (each.folder / "decisions.png" for each in group.outcomes if each.scores), None
        )
        if first is not None and first.is_file():
            name = f"{group.recipe}, {group.architecture.replace('_', ' ')}"
            shown.append(f"{name}:\n\n![{name}: decisions]({_relative(first, folder)})\n")
    return shown


def _makers(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """What the runs themselves keep of how they were made, each once; versions of those that finished."""
    outcomes = [outcome for group in groups for outcome in group.outcomes]
    scores = [outcome.scores for outcome in outcomes if outcome.scores is not None]
    found = {
        key: {str(each[key]) for each in scores if key in each} for key in ("keelnet", "torch")
    }
    found |= {key: {getattr(each.recipe, key) for each in outcomes} for key in AGAIN}
    return {key: sorted(values) for key, values in found.items()}


def _origin(groups: Sequence[Group]) -> str:
    made = {key: ", ".join(map(str, values)) for key, values in _makers(groups).items()}
    here = machine()
    return (
        f"Made by keelnet {made['keelnet'] or 'unknown'} with torch {made['torch'] or 'unknown'}, device"
        f" {made['device']}, threads {made['threads']} (0: torch's choice). Collected on {here['system']}"
        f" {here['processor']}, {here['cores']} cores.\n"
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
