"""Pictures: Dice by contestant, training loss against seconds, costs against depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ceiling import Ceiling
from contestants import CONTESTANTS, DEPTHS
from costs import milliseconds
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from scores import Score
from settings import Settings

# Okabe and Ito's colours, and a marker each, so that colour is never the only difference.
LOOKS = {
    "keelnet": ("#D55E00", "o"),
    "no steps, same shell": ("#E69F00", "D"),
    "local, 3³ once": ("#999999", "v"),
    "SegResNet 8": ("#0072B2", "s"),
    "SegResNet 16": ("#56B4E9", "P"),
    "UNet": ("#009E73", "^"),
    "UNet, checkpointed": ("#F0E442", ">"),
    "iUNet": ("#CC79A7", "X"),
}
# keelnet's at other depths are black; what was tried for it meets no peer, whose colours are free then.
DEEP = dict(zip(DEPTHS, "*<h", strict=True))
TRIED = tuple(
    (colour, marker)
    for (colour, _), marker in zip([*LOOKS.values()][1:] * 2, "dsPv^>X*<hHp8D", strict=True)
)


def draw(
    settings: Settings,
    scores: Sequence[Score],
    ceiling: Ceiling | None,
    folder: Path,
    prefix: str = "",
) -> dict[str, str]:
    """Writes what there are numbers for; which files they are in the folder, their names after ``prefix``."""
    makers = {
        "dice": lambda: _dice(settings, scores, ceiling),
        "loss": lambda: _loss(settings, scores),
        "costs": lambda: _costs(settings, scores),
    }
    drawn = {}
    for name, make in makers.items():
        figure = make()
        if figure is not None:
            drawn[name] = f"{prefix}{name}.png"
            (folder / drawn[name]).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / drawn[name], dpi=150)
    return drawn


def _looks() -> dict[str, tuple[str, str]]:
    """Colour and marker by title, the same in every picture."""
    own = [
        each for each in CONTESTANTS.values() if each.title not in LOOKS and each.role != "weighed"
    ]
    deep = {each.title: ("#000000", DEEP[each.layers]) for each in own if each.role == "deep"}
    others = [each.title for each in own if each.role != "deep"]
    tried = {title: TRIED[n % len(TRIED)] for n, title in enumerate(others)}
    return LOOKS | deep | tried


def _dice(settings: Settings, scores: Sequence[Score], ceiling: Ceiling | None) -> Figure | None:
    """A dot a test case, a box over the middle half, a marker at the mean; as they are, and under noise; a line at the ceiling."""
    trained = sorted((one for one in scores if one.runs), key=lambda one: one.dice("test"))
    if not trained:
        return None
    figure = Figure(figsize=(9.2, 0.5 * len(trained) + 1.3), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    looks = _looks()
    noise = f"with noise of {settings.perturbation:g} deviations"
    least = _least([one.cases(on) for one in trained for on in ("test", "perturbed")])
    for panel, on, title in zip(panels, ("test", "perturbed"), ("as they are", noise), strict=True):
        for place, one in enumerate(trained):
            _row(panel, place, one.cases(on), least, *looks[one.title])
        if ceiling is not None:
            panel.axvline(ceiling.mean(), color="black", linestyle=":", linewidth=1.2, zorder=1)
        panel.set_title(title, size=10)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(trained)), [one.title for one in trained])
    panels[0].set_xlim(least - 0.02 * (1 - least), 1 + 0.16 * (1 - least))  # room for the numbers
    panels[0].set_ylim(-0.6, len(trained) - 0.4)
    line = "" if ceiling is None else f"; dotted: what the labels allow, {ceiling.mean():.3f}"
    figure.supxlabel(
        "mean Dice of WT, TC and ET: a dot a case, seeds averaged (triangle: below the axis);"
        f"\nbox: middle half; number and marker: mean{line}",
        size=9,
    )
    return figure


def _least(columns: Sequence[Any]) -> float:
    """Where the axis begins, a multiple of 0.1: a few cases that failed must not press all others together."""
    low = min(float(np.percentile(values, 5)) for values in columns)
    return min(0.9, np.floor(10 * low) / 10)


def _row(panel: Axes, place: int, values: Any, least: float, colour: str, marker: str) -> None:
    shift = place + np.random.default_rng(0).uniform(-0.22, 0.22, len(values))
    seen = values >= least
    panel.plot(values[seen], shift[seen], ".", color="#666666", markersize=3, alpha=0.6, zorder=1)
    panel.plot(0 * values[~seen] + least, shift[~seen], "<", color="#666666", markersize=5, zorder=1)  # fmt: skip
    low, high = np.percentile(values, (25, 75))
    panel.barh(place, high - low, left=low, height=0.6, color=colour, alpha=0.35, zorder=2)
    mean = float(values.mean())
    panel.plot(mean, place, marker, color=colour, markersize=9, markeredgecolor="black", zorder=3)
    across = panel.get_yaxis_transform()
    panel.text(0.985, place, f"{mean:.3f}", transform=across, ha="right", va="center", size=8)


def _loss(settings: Settings, scores: Sequence[Score]) -> Figure | None:
    """Means over shares of the budget and over seeds."""
    trained = [one for one in scores if one.runs]
    if not trained:
        return None
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    panel = figure.subplots()
    looks = _looks()
    for one in trained:
        # nan where no step of any seed ended in that share
        rows = np.array([run["losses"] for run in one.runs], np.float64)
        counts = np.isfinite(rows).sum(0)
        mean = np.where(counts, np.nansum(rows, 0) / np.maximum(counts, 1), np.nan)
        seconds = settings.seconds * (np.arange(len(mean)) + 0.5) / len(mean)
        shown = np.isfinite(mean)
        colour, marker = looks[one.title]
        ours = one.contestant.role == "ours"
        panel.plot(
            seconds[shown],
            mean[shown],
            color=colour,
            marker=marker,
            markevery=3,
            markeredgecolor="black",
            markeredgewidth=0.4,
            linewidth=2.4 if ours else 1.3,
            linestyle="-" if one.title in LOOKS else "--",
            label=one.title,
            zorder=3 if ours else 2,
        )
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(FuncFormatter(_sparse))
    panel.axvspan(0.8 * settings.seconds, settings.seconds, color="#000000", alpha=0.06, lw=0)
    panel.set_xlim(0, settings.seconds)
    kind = "of the process" if settings.clock == "cpu" else "of the day"
    panel.set_xlabel(f"seconds of training, {kind} (grey: the last fifth)")
    panel.set_ylabel("training loss (Dice + cross-entropy)")
    panel.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _sparse(value: float, _: object) -> str:
    """Some between powers of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "23468" else ""


def _costs(settings: Settings, scores: Sequence[Score]) -> Figure | None:
    """A line a family over its depths: bytes, and milliseconds where they were taken."""
    makers: list[tuple[str, str, Callable[[Score], float | None]]] = [
        ("saved for backward", "MB", lambda one: one.memory and one.memory["saved_bytes"] / 1e6),
        ("peak growth of the process", "MB", lambda one: one.memory and one.memory["peak_bytes"] / 1e6),
        ("a step", "ms", lambda one: one.pace and milliseconds(one.pace)),
    ]  # fmt: skip
    deep = [one for one in scores if one.contestant.family]
    found = [(title, unit, {one.contestant.name: value for one in deep if (value := of(one))}) for title, unit, of in makers]  # fmt: skip
    found = [each for each in found if len(each[2]) > 1]
    if not found:
        return None
    figure = Figure(figsize=(1.6 + 3.6 * len(found), 3.8), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    families = list(dict.fromkeys(one.contestant.family for one in deep))
    looks = _looks()
    for panel, (title, unit, values) in zip(panels, found, strict=True):
        for family in families:
            points = sorted(
                (one.contestant.layers, values[one.contestant.name])
                for one in deep
                if one.contestant.family == family and one.contestant.name in values
            )
            colour, marker = looks[family]
            panel.plot(*zip(*points, strict=True), color=colour, marker=marker, markeredgecolor="black", markeredgewidth=0.4, linewidth=2.4 if family == "keelnet" else 1.3, label=family)  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(DEPTHS, list(map(str, DEPTHS)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        where = settings.side if unit == "MB" else settings.crop
        panel.set_title(f"{title}, {settings.batch} × 4 × {where}³", size=10)
        panel.set_ylabel(unit)
        panel.grid(alpha=0.3, which="both")
    figure.supxlabel("layers a stage", size=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure
