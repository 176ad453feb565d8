"""Pictures: time against width and depth, memory against depth, share of the floor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cases import BACKWARD
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from results import Result
from standings import Standing

# Okabe and Ito's colours, and a marker each, so that colour is never the only difference.
LOOKS = {
    "keelnet store_all": ("#D55E00", "o"),
    "keelnet checkpointed": ("#E69F00", "D"),
    "keelnet reversible": ("#0072B2", "s"),
    "torch autograd": ("#000000", "^"),
    "torch.compile layer": ("#56B4E9", "P"),
    "jax scan": ("#009E73", "X"),
    "diffrax checkpointed": ("#CC79A7", "<"),
    "torchode autograd": ("#F0E442", ">"),
    "torchdiffeq autograd": ("#999999", "h"),
    "memcnn coupling": ("#009E73", "X"),
    "iunets coupling": ("#CC79A7", "<"),
    "monai units": ("#F0E442", ">"),
    "torch checkpoint": ("#999999", "v"),
}
# In the tables; too many lines here.
UNDRAWN = ("torch checkpoint", "torchdiffeq adjoint", "diffrax direct")
Value = Callable[[Result], float | None]


def draw(found: Sequence[Standing], folder: Path) -> list[str]:
    """Writes what there are numbers for; the names of the files without .png."""
    makers = {
        "width": lambda: _against(found, "width"),
        "depth": lambda: _against(found, "depth"),
        "memory": lambda: _memory(found),
        "floor": lambda: _floor(found),
    }
    drawn = []
    for name, make in makers.items():
        figure = make()
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=150)
            drawn.append(name)
    return drawn


def _against(found: Sequence[Standing], axis: str) -> Figure | None:
    """Euler, forward + backward, of the map: a panel a group of cells that differ in ``axis`` only."""
    cells = [one for one in found if one.part == "map" and one.case.scheme == "euler"]
    cells = [one for one in cells if one.pass_ == BACKWARD]
    groups: dict[tuple[int, int], list[Standing]] = {}
    for one in cells:
        case = one.case
        key = (case.batch, case.depth) if axis == "width" else (case.inputs, case.batch)
        groups.setdefault(key, []).append(one)
    groups = {key: group for key, group in sorted(groups.items()) if len(group) > 1}
    if not groups:
        return None
    columns = 2 if len(groups) > 1 else 1
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.2 * columns + 2.4, 2.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row").ravel()
    for panel, (key, group) in zip(panels, groups.items(), strict=False):
        names = ("batch", "depth") if axis == "width" else ("width", "batch")
        panel.set_title(", ".join(map(" ".join, zip(names, map(str, key), strict=True))), size=9)
        values = [one.case.inputs if axis == "width" else one.case.depth for one in group]
        _lines(panel, values, group, lambda one: _scaled(one.median, 1e3), UNDRAWN)
        _logarithmic(panel, values)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    figure.supxlabel("width (channels)" if axis == "width" else "depth (layers)", size=10)
    figure.supylabel("forward + backward (ms)", size=10)
    _legend(figure, panels)
    return figure


def _memory(found: Sequence[Standing]) -> Figure | None:
    """Convolutions: what each keeps for the backward pass, and how far the process grows."""
    cells = sorted(
        (one for one in found if one.part == "memory" and one.case.dim),
        key=lambda one: one.case.depth,
    )
    if len(cells) < 2:
        return None
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    depths = [one.case.depth for one in cells]
    counts: tuple[tuple[str, Value], ...] = (
        ("saved for backward (MB)", lambda one: _scaled(one.saved_bytes, 1e-6)),
        ("peak growth of the process (MB)", lambda one: _scaled(one.peak_bytes, 1e-6)),
    )
    for panel, (label, value) in zip(panels, counts, strict=True):
        _lines(panel, depths, cells, value)
        _logarithmic(panel, depths)
        panel.set_xlabel("depth (layers)")
        panel.set_ylabel(label)
    case = cells[0].case
    grid = f"{case.side}{'²³'[case.dim - 2]}"
    figure.suptitle(
        f"Verlet, {case.inputs} channels each, {grid} points, batch {case.batch}", size=10
    )
    _legend(figure, panels)
    return figure


def _floor(found: Sequence[Standing]) -> Figure | None:
    """A bar a contender: how much of its time are products it cannot do without."""
    cells = [one for one in found if one.part in ("dense", "conv") and _shares(one)]
    deepest = max((one.case.depth for one in cells if _is_headline(one)), default=0)
    cells = [
        one
        for one in cells
        if one.part == "dense" or (_is_headline(one) and one.case.depth == deepest)
    ]
    if not cells:
        return None
    heights = [len(_shares(one)) for one in cells]
    height = 0.24 * sum(heights) + 0.62 * len(cells) + 0.5
    figure = Figure(figsize=(7.4, height), layout="constrained")
    panels = figure.subplots(len(cells), 1, squeeze=False, sharex=True, height_ratios=heights)
    for panel, cell in zip(panels.ravel(), cells, strict=True):
        shares = sorted(_shares(cell), key=lambda pair: pair[1])
        names, values = zip(*shares, strict=True)
        colours = [
            LOOKS["keelnet store_all" if name.startswith("keelnet") else "torch.compile layer"][0]
            for name in names
        ]
        bars = panel.barh(names, values, color=colours, height=0.7)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        panel.bar_label(bars, fmt="%.0f", padding=3, size=8, bbox=box)
        panel.axvline(100, color="black", linewidth=1, linestyle="--")
        panel.set_title(cell.name, size=9, loc="left")
        panel.tick_params(axis="y", labelsize=8)
    most = max(share for one in cells for _, share in _shares(one))
    panels[0, 0].set_xlim(0, max(110, 1.1 * most))
    figure.supxlabel("share of the floor (%): products alone over the time taken", size=10)
    return figure


def _is_headline(standing: Standing) -> bool:
    return (standing.case.dim, standing.case.side) == (3, 64)


def _shares(standing: Standing) -> list[tuple[str, float]]:
    pairs = ((one.name, standing.share(one)) for one in standing.contenders if one.same_mathematics)
    return [(name, 100 * share) for name, share in pairs if share is not None]


def _lines(
    panel: Axes,
    positions: Sequence[int],
    cells: Sequence[Standing],
    value: Value,
    undrawn: Sequence[str] = (),
) -> None:
    """A line a contender over the cells in which it has a value."""
    names = dict.fromkeys(one.name for cell in cells for one in cell.contenders)
    for name in [name for name in names if name not in undrawn]:
        points = [
            (position, found)
            for position, cell in zip(positions, cells, strict=True)
            for one in cell.contenders
            if one.name == name and (found := value(one)) is not None
        ]
        if points:
            colour, marker = LOOKS.get(name, ("#999999", "."))
            ours = name.startswith("keelnet")
            style = {"linewidth": 2.2 if ours else 1.2, "linestyle": "-" if ours else "--"}
            panel.plot(
                *zip(*sorted(points), strict=True),
                color=colour,
                marker=marker,
                markersize=6,
                markeredgecolor="black",
                markeredgewidth=0.4,
                label=name,
                zorder=3 if ours else 2,
                **style,
            )


def _logarithmic(panel: Axes, positions: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    values = sorted(set(positions))
    panel.set_xticks(values, [str(value) for value in values])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    least, most = panel.get_ylim()
    panel.yaxis.set_major_locator(LogLocator(subs=(1,) if most > 200 * least else (1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.3)


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One for all panels, beside them."""
    handles = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)


def _scaled(value: float | None, factor: float) -> float | None:
    return value * factor if value else None
