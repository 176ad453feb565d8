"""Targets: the ratios that decide whether the engines are done, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cases import BACKWARD, FORWARD
from results import Result
from standings import Standing, geometric_mean, over


@dataclass(frozen=True)
class Target:
    """``at_least`` or at most ``wanted``; ``measured`` is None where nothing was."""

    statement: str
    wanted: float
    at_least: bool
    measured: float | None
    remark: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.wanted if self.at_least else self.measured <= self.wanted
        return "met" if met else "NOT MET"


def targets(found: Sequence[Standing]) -> list[Target]:
    """All of them, measured or not."""
    return [*_narrow(found), *_dense(found), *_map(found), *_convolution(found), *_overhead(found)]


def _find(found: Iterable[Standing], part: str, scheme: str, pass_: str) -> list[Standing]:
    wanted = (part, scheme, pass_)
    return [one for one in found if (one.part, one.case.scheme, one.pass_) == wanted]


def _first(found: Iterable[Standing], part: str, scheme: str, pass_: str) -> Standing:
    return next(iter(_find(found, part, scheme, pass_)), Standing(()))


def _narrow(found: Sequence[Standing]) -> list[Target]:
    forward = _first(found, "narrow", "verlet", FORWARD)
    backward = _first(found, "narrow", "verlet", BACKWARD)
    peers = (("torch", "autograd", 40), ("jax", "scan", 15), ("jax", "components", 1.3))
    rows = [
        Target(
            f"narrow, forward: times faster than {peer} {method}",
            wanted,
            True,
            over(forward.of(peer, method), forward.of("keelnet", "store_all")),
        )
        for peer, method, wanted in peers
    ]
    gradient = over(backward.of("torch", "autograd"), backward.of("keelnet", "reversible"))
    name = "narrow, forward + backward, reversible: times faster than torch autograd"
    return [*rows, Target(name, 15, True, gradient)]


def _dense(found: Sequence[Standing]) -> list[Target]:
    forward = _first(found, "dense", "euler", FORWARD)
    backward = _first(found, "dense", "euler", BACKWARD)
    verlet = _first(found, "dense", "verlet", BACKWARD)
    name = "dense 1024 × 256 × 100"
    return [
        Target(f"{name}, forward: × the products", 1.15, False, _floors(forward, "store_all")),
        Target(
            f"{name}, forward + backward, store_all: × three products",
            1.25,
            False,
            _floors(backward, "store_all"),
        ),
        Target(
            f"{name}, Verlet, forward + backward, reversible: × its eight products",
            1.25,
            False,
            _floors(verlet, "reversible"),
        ),
        Target(
            f"{name}, forward + backward: times faster than the best peer",
            2,
            True,
            backward.ratio,
            _named(backward.peer),
        ),
    ]


def _floors(standing: Standing, method: str) -> float | None:
    """Our time in units of the floor."""
    result = standing.of("keelnet", method)
    share = standing.share(result) if result else None
    return 1 / share if share else None


def _named(result: Result | None) -> str:
    return result.name if result else ""


def _map(found: Sequence[Standing]) -> list[Target]:
    cells = [one for one in found if one.part == "map" and one.ratio is not None]
    worst = min(cells, key=lambda one: one.ratio, default=None)
    count = f"{len(cells)} cells"
    return [
        Target(
            "dense map, its worst cell: our time × the best peer's",
            1.1,
            False,
            1 / worst.ratio if worst else None,
            f"{worst.name}: {_named(worst.peer)}" if worst else "",
        ),
        Target(
            "dense map: geometric mean of times faster than the best peer",
            2,
            True,
            geometric_mean(one.ratio for one in cells),
            count,
        ),
    ]


def _convolution(found: Sequence[Standing]) -> list[Target]:
    cells = _find(found, "conv", "verlet", BACKWARD)
    large = [one for one in cells if (one.case.dim, one.case.side) == (3, 64)]
    timed = max(large, key=lambda one: one.case.depth, default=Standing(()))
    remark = _instead(timed, "32 layers")
    ours, theirs = timed.of("keelnet", "reversible"), timed.of("torch", "autograd")
    name = "convolutions 16 × 64³ × 32, forward + backward, reversible"
    floors = _floors(timed, "reversible")
    weighed = [one for one in found if one.part == "memory" and one.case.dim]
    largest = [one for one in weighed if (one.case.dim, one.case.depth) == (3, 32)]
    compared = (largest or sorted(weighed, key=lambda one: one.case.depth)[-1:] or [Standing(())])[
        0
    ]
    return [
        Target(f"{name}: × eight convolutions a step", 1.3, False, floors, remark),
        Target(f"{name}: times faster than torch autograd", 1.8, True, over(theirs, ours), remark),
        Target(
            f"{name}: peak memory × torch autograd's",
            1 / 6,
            False,
            _peaks(compared),
            _instead(compared, "32 layers"),
        ),
        _flat(weighed),
    ]


def _instead(standing: Standing, wanted: str) -> str:
    """Says so where the quick run stands in for the full one."""
    if not standing.results:
        return ""
    case = standing.case
    headline = (case.dim, case.side, case.depth) == (3, 64, 32)
    return "" if headline else f"on {case.name} instead of {wanted} at 64³"


def _peaks(standing: Standing) -> float | None:
    peaks = {one.name: one.peak_bytes for one in standing.results}
    ours, theirs = peaks.get("keelnet reversible"), peaks.get("torch autograd")
    return ours / theirs if ours and theirs else None


def _flat(weighed: Sequence[Standing]) -> Target:
    """How far the peaks of ``reversible`` lie from their middle, as a share of it."""
    peaks = {
        standing.case.depth: one.peak_bytes
        for standing in weighed
        for one in standing.results
        if one.name == "keelnet reversible" and one.peak_bytes
    }
    several = len(peaks) > 1
    middle = (max(peaks.values()) + min(peaks.values())) / 2 if several else 1
    spread = max(peaks.values()) / middle - 1 if several else None
    depths = " to ".join(str(depth) for depth in (min(peaks), max(peaks))) if several else ""
    remark = f"± around their middle, depth {depths}" if several else ""
    return Target(
        "convolutions, reversible: peak memory flat over depth", 0.03, False, spread, remark
    )


def _overhead(found: Sequence[Standing]) -> list[Target]:
    standing = _first(found, "overhead", "euler", FORWARD)
    ours = standing.ours
    cost = 1e6 * ours.median / standing.case.depth if ours and ours.median else None
    return [Target("width 2 × batch 1, forward: µs a layer", 1, False, cost)]
