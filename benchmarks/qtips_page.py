"""Table and picture of the Q-tips study.

From the records that are kept, without running anything, from the project's root:
.venv/bin/python benchmarks/qtips_page.py docs/qtips.json --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from qtips_networks import DEPTHS, NETWORKS, reach
from qtips_run import Job, Record

# Okabe and Ito's colours, and a marker each, so that colour is never the only difference.
LOOKS = {
    "residual": ("#000000", "^", "plain residual (Euler)"),
    "antisymmetric": ("#E69F00", "D", "antisymmetric (Euler)"),
    "verlet": ("#0072B2", "s", "Verlet (Hamiltonian)"),
    "unet": ("#CC79A7", "o", "MONAI UNet"),
}
CHANCE = 0.5
# Who comes less than this part of the way from chance to what its window allows has not been trained; a window that
# allows less than WORTH says nothing about training.
LEAST, WORTH = 0.25, 0.6
NOTE = (
    "Means over seeds (least–most) of the last iterate; † has not been trained: its loss was not finite, or it came less "
    f"than {LEAST:.0%} of the way from ½ to what its window allows."
)


def write_page(out: Path, records: Sequence[Record]) -> None:
    """qtips.json, qtips.md and qtips.png from all the records there are."""
    _put(out / "qtips.json", _as_lines(records))
    found = [one for one in records if one["job"]["purpose"] == "study"]
    searches = [one for one in records if one["job"]["purpose"] == "search"]
    _put(out / "qtips.md", "\n\n".join([*_tables(found), NOTE, _searches(searches)]) + "\n")
    if found:
        temporary = out / f"qtips.{os.getpid()}.new.png"
        _figure(found).savefig(temporary, dpi=150)
        temporary.replace(out / "qtips.png")


def _as_lines(records: Sequence[Record]) -> str:
    """JSON, a run a line, without the curves."""
    lines = [{key: value for key, value in one.items() if key != "curve"} for one in records]
    return "[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n"


def failed(record: Record) -> bool:
    """Whether training led nowhere: see NOTE; never where the window allows too little to tell."""
    allowed = _allowed(record)
    if record["diverged"] is not None or allowed < WORTH:
        return record["diverged"] is not None
    return _accuracy(record) < CHANCE + LEAST * (allowed - CHANCE)


def _accuracy(record: Record) -> float:
    return float(record["rod_accuracy"] or 0.0)


def _allowed(record: Record) -> float:
    """The bound for the window that the network sees."""
    job = Job(**record["job"])
    return _bound(job.length, job.size, job.rods, reach(job.network, job.depth))


@cache
def _bound(length: float, size: int, rods: int, radius: int | None) -> float:
    """By the rods of one fixed seed: one curve for all."""
    from keelnet.data.qtips import qtips

    return (
        1.0 if radius is None else qtips(length=length, size=size, rods=rods).local_accuracy(radius)
    )


def _of(found: Sequence[Record], **wanted: object) -> list[Record]:
    return [one for one in found if all(one["job"][key] == value for key, value in wanted.items())]


def _lengths(found: Sequence[Record]) -> list[float]:
    return sorted({one["job"]["length"] for one in found})


def _tables(found: Sequence[Record]) -> list[str]:
    """A table a length: mean accuracy (least – most) by depth, † where every seed failed; then the costs."""
    parts = []
    for length in _lengths(found):
        rows = [_header(f"rods of {length:g} pixels, accuracy")]
        for name in NETWORKS:
            cells = [_cell(_of(found, network=name, depth=d, length=length)) for d in DEPTHS]
            rows.append(f"| {LOOKS[name][2]} | " + " | ".join(cells) + " |")
        rows += [_bounds(found, length, name) for name in ("residual", "verlet")]
        parts.append("\n".join(rows))
    rows = [_header("seconds of one core a run (parameters)")]
    for name in NETWORKS:
        cells = [_cost(_of(found, network=name, depth=d)) for d in DEPTHS]
        rows.append(f"| {LOOKS[name][2]} | " + " | ".join(cells) + " |")
    return [*parts, "\n".join(rows)]


def _header(title: str) -> str:
    columns = "".join(f" {depth} |" for depth in DEPTHS)
    return f"| {title} |{columns}\n|---|" + "---|" * len(DEPTHS)


def _cell(records: Sequence[Record]) -> str:
    if not records:
        return ""
    values = [_accuracy(one) for one in records]
    share = sum(failed(one) for one in records)
    mark = "" if not share else " †" if share == len(records) else f" †{share}/{len(records)}"
    spread = f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}{mark}"


def _bounds(found: Sequence[Record], length: float, name: str) -> str:
    job = Job(**_of(found, length=length)[0]["job"])
    values = [_bound(length, job.size, job.rods, reach(name, depth)) for depth in DEPTHS]
    who = "Verlet" if name == "verlet" else "residual, antisymmetric"
    return f"| *at most, by the window of {who}* | " + " | ".join(f"{v:.3f}" for v in values) + " |"


def _cost(records: Sequence[Record]) -> str:
    if not records:
        return ""
    return (
        f"{statistics.median(one['seconds'] for one in records):.0f} ({records[0]['parameters']})"
    )


def _searches(searches: Sequence[Record]) -> str:
    rows = ["| search: network, depth | rate | h | accuracy |", "|---|---|---|---|"]
    for one in searches:
        job = one["job"]
        step = "" if job["network"] == "unet" else f"{job['step']:g}"
        rows.append(
            f"| {job['network']}, {job['depth']} | {job['rate']:g} | {step} | {_accuracy(one):.3f} |"
        )
    return "\n".join(rows)


def _figure(found: Sequence[Record]) -> Figure:
    lengths = _lengths(found)
    figure = Figure(figsize=(4 * len(lengths) + 0.6, 4.4), layout="constrained")
    panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for axes, length in zip(panels, lengths, strict=True):
        _panel(axes, _of(found, length=length), length)
    panels[0].set_ylabel("accuracy on rod pixels")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(4, 1 + len(lengths))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    return figure


def _panel(axes: Axes, found: Sequence[Record], length: float) -> None:
    axes.set_title(f"rods of {length:g} pixels", fontsize=11)
    axes.axhline(CHANCE, color="0.5", lw=1, ls=":", label="one end seen, or none: ½")
    for name, dashes in (("residual", (5, 2)), ("verlet", (7, 2, 1, 2))):
        _draw_bound(axes, found, length, name, dashes)
    for name in NETWORKS:
        _draw(axes, _of(found, network=name), name)
    axes.scatter([], [], marker="x", color="#D55E00", s=60, lw=2, label="failed to train")
    axes.set_xscale("log", base=2)
    axes.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
    axes.set_ylim(0.4, 1.02)
    axes.set_xlabel("depth (layers; the UNet's convolutions)")


def _draw_bound(
    axes: Axes, found: Sequence[Record], length: float, name: str, dashes: tuple[float, ...]
) -> None:
    job = Job(**found[0]["job"])
    values = [_bound(length, job.size, job.rods, reach(name, depth)) for depth in DEPTHS]
    who = "Verlet" if name == "verlet" else "Euler"
    axes.plot(
        DEPTHS, values, color="0.6", lw=1, dashes=dashes, label=f"most in the window of {who}"
    )


def _draw(axes: Axes, found: Sequence[Record], name: str) -> None:
    """Means over seeds, bars from least to most, a cross where a seed failed."""
    colour, marker, label = LOOKS[name]
    depths = [depth for depth in DEPTHS if _of(found, depth=depth)]
    values = [[_accuracy(one) for one in _of(found, depth=depth)] for depth in depths]
    means = [statistics.mean(each) for each in values]
    bars = [
        [m - min(v) for m, v in zip(means, values, strict=True)],
        [max(v) - m for m, v in zip(means, values, strict=True)],
    ]
    axes.errorbar(
        depths, means, bars, color=colour, marker=marker, ms=6, lw=1.6, capsize=3, label=label
    )
    lost = [one for one in found if failed(one)]
    crosses = [max(_accuracy(one), 0.41) for one in lost]
    axes.scatter(
        [one["job"]["depth"] for one in lost],
        crosses,
        marker="x",
        color="#D55E00",
        s=60,
        lw=2,
        zorder=5,
    )


def _put(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    """Write the page of a file of records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    write_page(given.out, json.loads(given.records.read_text()))


if __name__ == "__main__":
    main()
