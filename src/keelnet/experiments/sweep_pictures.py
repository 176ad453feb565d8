"""Pictures of sweeps: accuracy and growth against the setting that was varied, an architecture a line."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from keelnet.analysis.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from keelnet.experiments.comparison import Group
from keelnet.experiments.pictures import png
from keelnet.experiments.table import ARCHITECTURES

COLOURS = (VERMILION, ORANGE, BLUE, SKY, GREEN, PURPLE)
STYLES = dict(zip(ARCHITECTURES, zip(COLOURS, "osD^vP", strict=True), strict=True))
OTHER = ("black", "*")  # of an architecture that only collected runs have
FIRST = ("depth", "samples")  # of several settings that vary, what is drawn against


def sweeps(groups: Sequence[Group]) -> dict[str, bytes]:
    """A picture for each recipe with one setting that varies, by file name."""
    pictures = {}
    for name in dict.fromkeys(group.recipe for group in groups):
        own = [group for group in groups if group.recipe == name]
        key = _varied(own)
        if key is not None:
            pictures[f"{name}-{key}.png"] = _picture(name, key, own)
    return pictures


def _varied(groups: Sequence[Group]) -> str | None:
    """The number against which each architecture has one group a value; None where there is none."""
    keys = list(groups[0].settings)
    for key in sorted(keys, key=lambda each: (each not in FIRST, keys.index(each))):
        values = [group.settings[key] for group in groups]
        if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
            continue
        places = {(group.architecture, group.settings[key]) for group in groups}
        if len(places) == len(groups) and len(set(values)) > 1 and min(values) > 0:
            return key
    return None


def _picture(name: str, key: str, groups: Sequence[Group]) -> bytes:
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    figure.suptitle(f"Recipe {name}: mean over seeds (line), least to largest (shaded)")
    accuracy, growth = figure.subplots(1, 2)
    architectures = list(dict.fromkeys(group.architecture for group in groups))
    for architecture in architectures:
        own = [group for group in groups if group.architecture == architecture]
        own.sort(key=lambda group: group.settings[key])
        _line(accuracy, key, own, "validation_accuracy")
        _line(growth, key, own, "growth")
    _failures(accuracy, key, groups)
    accuracy.set_ylabel("validation accuracy, %")
    growth.set_ylabel("growth (largest singular value)")
    growth.set_yscale("log")
    for axes in (accuracy, growth):
        _labelled(axes, key, sorted({group.settings[key] for group in groups}))
    figure.legend(
        handles=_handles(architectures, any(group.failed for group in groups)),
        loc="outside lower center",
        ncols=7,
        frameon=False,
    )
    return png(figure)


def _line(axes: Axes, key: str, groups: Sequence[Group], measure: str) -> None:
    known = [group for group in groups if group.values(measure)]
    scale = 100 if measure == "validation_accuracy" else 1
    x = [group.settings[key] for group in known]
    values = [[scale * value for value in group.values(measure)] for group in known]
    colour, mark = _style(groups[0].architecture)
    axes.plot(
        x, [sum(each) / len(each) for each in values], color=colour, marker=mark, markersize=5
    )
    axes.fill_between(
        x, [min(each) for each in values], [max(each) for each in values], color=colour, alpha=0.15
    )


def _failures(axes: Axes, key: str, groups: Sequence[Group]) -> None:
    """A cross in its colour where a run diverged, at the foot of the picture."""
    low = axes.get_ylim()[0]
    for group in groups:
        if group.failed:
            colour, _ = _style(group.architecture)
            axes.plot(group.settings[key], low, "x", color=colour, clip_on=False)


def _style(architecture: str) -> tuple[str, str]:
    """Colour and mark."""
    return STYLES.get(architecture, OTHER)


def _labelled(axes: Axes, key: str, values: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("depth, layers a block" if key == "depth" else key.replace("_", " "))
    axes.grid(alpha=0.3)


def _handles(architectures: Sequence[str], failed: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker=mark, label=name.replace("_", " "))
        for name in architectures
        for colour, mark in [_style(name)]
    ]
    if failed:
        handles.append(Line2D([], [], color="0.3", marker="x", linestyle="", label="diverged"))
    return handles
