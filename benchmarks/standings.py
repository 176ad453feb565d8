"""Standing: the results of one cell, ours against the best peer and against the floor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cases import Case
from plan import floor_counts
from results import Result


@dataclass(frozen=True)
class Standing:
    """Everyone who met on one cell."""

    results: tuple[Result, ...]

    @property
    def case(self) -> Case:
        return self.results[0].case

    @property
    def pass_(self) -> str:
        return self.results[0].pass_

    @property
    def part(self) -> str:
        return self.results[0].part

    @property
    def name(self) -> str:
        return f"{self.case.name}, {self.pass_}"

    @property
    def contenders(self) -> list[Result]:
        """All but the floors."""
        return [one for one in self.results if not one.is_floor]

    @property
    def ours(self) -> Result | None:
        """Our fastest strategy."""
        return _fastest(one for one in self.results if one.is_ours)

    @property
    def peer(self) -> Result | None:
        """The fastest of those who compute the same."""
        others = (one for one in self.contenders if not one.is_ours and one.same_mathematics)
        return _fastest(others)

    @property
    def ratio(self) -> float | None:
        """Best peer's time over ours: above 1 we are faster."""
        return over(self.peer, self.ours)

    def of(self, peer: str, method: str) -> Result | None:
        """By name, if it was measured."""
        found = (one for one in self.results if (one.peer, one.method) == (peer, method))
        return next((one for one in found if one.median is not None), None)

    def floor(self, method: str) -> float | None:
        """Seconds of the products that a method cannot do without, each by its best library."""
        counts = floor_counts(self.case, self.pass_, method)
        best = {kind: self.best_product(kind) for kind in counts}
        if not counts or None in best.values():
            return None
        return sum(count * best[kind].median for kind, count in counts.items())

    def best_product(self, kind: str) -> Result | None:
        floors = (one for one in self.results if one.is_floor)
        return _fastest(one for one in floors if one.method.split()[0] == kind)

    def share(self, result: Result) -> float | None:
        """Floor over time: 1 would be the products alone."""
        floor = self.floor(result.method)
        return floor / result.median if floor and result.median else None


def _fastest(results: Iterable[Result]) -> Result | None:
    timed = [one for one in results if one.median is not None]
    return min(timed, key=lambda one: one.median, default=None)


def over(first: Result | None, second: Result | None) -> float | None:
    """The ratio of two medians, if both were measured."""
    if first is None or second is None or first.median is None or second.median is None:
        return None
    return first.median / second.median


def standings(results: Iterable[Result]) -> list[Standing]:
    """In the order in which the cells were met."""
    groups: dict[tuple[Case, str, str], list[Result]] = {}
    for one in results:
        groups.setdefault((one.case, one.pass_, one.part), []).append(one)
    return [Standing(tuple(group)) for group in groups.values()]


def geometric_mean(ratios: Iterable[float]) -> float | None:
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None
