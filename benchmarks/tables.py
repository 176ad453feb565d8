"""The report in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reasons import reason
from results import Result
from standings import Standing, geometric_mean
from targets import Target, targets

TITLES = {
    "narrow": "Narrow: a million points in the plane",
    "overhead": "The price of a layer: width 2, batch 1",
    "dense": "Dense headline",
    "map": "Dense map",
    "conv": "Convolutions",
    "memory": "Memory",
}
WINS = "◀ peer"


def report(machine: Mapping[str, str], found: Sequence[Standing], pictures: Sequence[str]) -> str:
    """The whole file."""
    lines = ["# Benchmark", "", "Ours against the peers, in turn within one run.", ""]
    lines += [f"- {label}: {text}" for label, text in machine.items()]
    lines += ["", "## Targets", "", *_targets(targets(found)), "", *_explanation(), ""]
    for part, title in TITLES.items():
        own = [one for one in found if one.part == part]
        if own:
            lines += [f"## {title}", "", *_part(part, own), ""]
    lines += [f"![{name}]({name}.png)\n" for name in pictures]
    return "\n".join(lines).rstrip() + "\n"


def _explanation() -> list[str]:
    return [
        "Times are medians over the rounds with the least and the most. Within its turn a contender"
        " repeats calls that together take less than 30 ms, as a training loop would, and their median"
        " counts; “first call” is the first of each turn, after everyone else ran. “× ours” is a contender's"
        " time over our fastest strategy's: above 1 we are faster. “× floor” is a time over the"
        " products (or convolutions) alone that the method cannot do without, each by the fastest"
        " library of this run. “Off by” is the largest relative error of the value and of the"
        " gradients against float64; who is off by more than 2e-3 is not timed. A cell where a"
        f" peer is ahead is marked {WINS}.",
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown; the first column is text, the others as they come."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---"] * len(header)
    return ["| " + " | ".join(row) + " |" for row in (header, rule, *escaped)]


def _targets(rows: Sequence[Target]) -> list[str]:
    return table(
        ("statement", "wanted", "measured", "", "remark"),
        [
            (
                one.statement,
                f"{'≥' if one.at_least else '≤'} {one.wanted:.3g}",
                f"{one.measured:.3g}" if one.measured is not None else "–",
                one.verdict,
                one.remark,
            )
            for one in rows
        ],
    )


def _part(part: str, own: Sequence[Standing]) -> list[str]:
    if part == "memory":
        return [line for one in own for line in ("", f"### {one.name}", "", *_memory(one))][1:]
    details = [line for one in own for line in ("", f"### {one.name}", "", *_detail(one))][1:]
    if part in ("map", "conv"):
        return [*_summary(own), "", *details]
    return details


def _summary(own: Sequence[Standing]) -> list[str]:
    """A row a cell: ours, the best peer, the floor."""
    rows = []
    for one in own:
        ours, peer = one.ours, one.peer
        share = one.share(ours) if ours else None
        rows.append(
            (
                one.name,
                f"{_ms(ours)} ({ours.method})" if ours else _why(one),
                f"{_ms(peer)} ({peer.name})" if peer else "–",
                _figure(one.ratio),
                _figure(1 / share if share else None),
                WINS if one.ratio is not None and one.ratio < 1 else "",
                reason(one),
            )
        )
    header = ("cell", "ours ms", "best peer ms", "× ours", "ours × floor", "", "likely reason")
    ratios = [one.ratio for one in own if one.ratio is not None]
    mean = geometric_mean(ratios)
    ahead = sum(ratio < 1 for ratio in ratios)
    text = f"{len(ratios)} of {len(own)} cells compared; a peer is ahead in {ahead}."
    if mean is not None:
        text += f" Geometric mean of “× ours”: {mean:.2f}."
    return [*table(header, rows), "", text]


def _why(standing: Standing) -> str:
    """The first of our refusals."""
    return next((one.refused for one in standing.results if one.is_ours and one.refused), "–")


def _detail(standing: Standing) -> list[str]:
    """A row a contender, floors at the end."""
    rows = [_row(standing, one) for one in standing.contenders]
    header = ["contender", "median ms", "least – most", "first call", "rounds", "× ours", "× floor"]
    header += [_rate_name(standing), "off by", "note"]
    lines = table(header, rows)
    if remark := reason(standing):
        lines += ["", f"{WINS}: {standing.peer.name}. Likely: {remark}."]
    return [*lines, *_floor_lines(standing)]


def _row(standing: Standing, one: Result) -> tuple[str, ...]:
    if one.median is None:
        return (one.name, one.refused or "–", *[""] * 7, one.note)
    share = standing.share(one)
    ratio = one.median / standing.ours.median if standing.ours else None
    least, most = 1e3 * min(one.seconds), 1e3 * max(one.seconds)
    return (
        f"**{one.name}**" if one.is_ours else one.name,
        _ms(one),
        f"{least:.4g} – {most:.4g}",
        f"{1e3 * one.first:.4g}" if one.first is not None else "",
        str(len(one.seconds)),
        _figure(ratio),
        _figure(1 / share if share else None),
        _rate(standing, one),
        f"{max(one.errors.values()):.0e}" if one.errors else "not compared",
        one.note,
    )


def _rate_name(standing: Standing) -> str:
    return "µs a layer" if standing.part == "overhead" else "G tanh/s"


def _rate(standing: Standing, one: Result) -> str:
    """Values of one forward pass over the time, or the time of a layer."""
    if standing.part == "overhead":
        return f"{1e6 * one.median / standing.case.depth:.3g}"
    return f"{standing.case.activations / one.median / 1e9:.3g}"


def _floor_lines(standing: Standing) -> list[str]:
    """Which library gave each product."""
    kinds = [kind for kind in ("apply", "adjoint", "weight") if standing.best_product(kind)]
    if not kinds:
        return []
    best = [standing.best_product(kind) for kind in kinds]
    text = ", ".join(f"{one.method} {_ms(one)} ms" for one in best)
    return ["", f"Floors over all layers: {text}."]


def _memory(standing: Standing) -> list[str]:
    rows = [
        (
            f"**{one.name}**" if one.is_ours else one.name,
            _mb(one.saved_bytes) if not one.refused else one.refused,
            _mb(one.peak_bytes),
            one.saved_how,
            one.note,
        )
        for one in standing.contenders
    ]
    header = ("contender", "saved for backward MB", "peak growth MB", "counted as", "note")
    return table(header, rows)


def _mb(count: int | None) -> str:
    return f"{count / 1e6:.4g}" if count is not None else "–"


def _ms(result: Result | None) -> str:
    return f"{1e3 * result.median:.4g}" if result and result.median is not None else "–"


def _figure(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else ""
