"""Scores: what the finished runs of a contestant say, and how two contestants differ case by case."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from contestants import CONTESTANTS, Contestant
from jobs import Finished, Job, Kind, Record, contestant_of
from numpy.typing import NDArray
from schedule import REGIONS, Schedule, mean_dice
from settings import Settings

MEASURED: tuple[Kind, ...] = ("memory", "pace")
Cases = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A contestant's finished runs, in the order of their seeds; its rate; its memory and pace; why something is missing."""

    contestant: Contestant
    runs: Sequence[Record]
    rate: float | None
    searched: dict[float, float]  # rate → validation Dice; nan where it diverged
    memory: Record | None
    pace: Record | None
    refused: str = ""

    @property
    def title(self) -> str:
        return self.contestant.title

    def cases(self, on: str, column: str = "mean") -> Cases:
        """A number a case of ``on`` (test, perturbed, validation, training), averaged over seeds."""
        values: Cases = np.mean([_column(run[on], column) for run in self.runs], axis=0)
        return values

    def dice(self, on: str, column: str = "mean") -> float:
        return float(self.cases(on, column).mean())

    def spread(self, on: str, column: str = "mean") -> float | None:
        """Standard deviation over seeds of the mean over cases."""
        means = [float(_column(run[on], column).mean()) for run in self.runs]
        return statistics.stdev(means) if len(means) > 1 else None

    def mean_of(self, entry: str) -> float:
        """Of a number that every run has: steps, seconds_a_step, parameters."""
        return statistics.fmean(run[entry] for run in self.runs)

    def falls(self) -> list[float | None]:
        """By seed: 1 − L(last tenth) / L(the tenth two tenths before), the training loss's fall over the last fifth.

        None where a run had no such losses.
        """
        return [fall_of(run["losses"]) for run in self.runs]

    def fall(self) -> float | None:
        """Mean over seeds of `falls`, of those that there are."""
        found = [fall for fall in self.falls() if fall is not None]
        return statistics.fmean(found) if found else None

    def fall_spread(self) -> float | None:
        """Standard deviation over seeds of `falls`."""
        found = [fall for fall in self.falls() if fall is not None]
        return statistics.stdev(found) if len(found) > 1 else None

    def gap(self) -> float:
        """Dice of training cases, as they are, less that of validation cases."""
        return self.dice("training") - self.dice("validation")


def _column(columns: Record, name: str) -> Cases:
    values: Cases = np.mean([columns[each] for each in REGIONS], axis=0)
    return values if name == "mean" else np.asarray(columns[name], np.float64)


def fall_of(losses: Sequence[float | None]) -> float | None:
    """Of losses over equal shares of a run; None where one of the two tenths has none."""
    tenth = max(1, len(losses) // 10)
    parts = (losses[-3 * tenth : -2 * tenth], losses[-tenth:])
    before, last = ([value for value in part if value is not None] for part in parts)
    return 1 - statistics.fmean(last) / statistics.fmean(before) if before and last else None


@dataclass(frozen=True)
class Difference:
    """Of mean Dice over the same cases, with a 95 % interval. alike: each seed ran on one processor for both."""

    mean: float
    low: float
    high: float
    cases: int
    seeds: int
    alike: bool


def shared_seeds(one: Score, other: Score) -> list[int]:
    """Those that both ran on the same processor: equal seconds are other steps on another one."""
    mine, theirs = ({run["seed"]: run.get("processor") for run in s.runs} for s in (one, other))
    return sorted(seed for seed in mine.keys() & theirs.keys() if mine[seed] == theirs[seed])


def difference(one: Score, other: Score, on: str = "test") -> Difference | None:
    """One less the other, paired by case over `shared_seeds`; bootstrap over cases, percentiles.

    Where there are none, over all seeds that both have, not ``alike``; None where there are none of these either.
    """
    alike = shared_seeds(one, other)
    seeds = alike or {run["seed"] for run in one.runs} & {run["seed"] for run in other.runs}
    if not seeds:
        return None
    a, b = (
        np.mean([_column(run[on], "mean") for run in score.runs if run["seed"] in seeds], axis=0)
        for score in (one, other)
    )  # fmt: skip
    low, high = interval(a - b)
    return Difference(float((a - b).mean()), low, high, len(a), len(seeds), bool(alike))


def interval(values: Cases, draws: int = 10_000) -> tuple[float, float]:
    """Of the mean: 2.5 and 97.5 percentiles over draws of the cases with replacement."""
    chosen = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[chosen].mean(1), (2.5, 97.5))
    return float(low), float(high)


def scores_of(
    records: Finished, settings: Settings, names: Sequence[str], refused: Mapping[str, str]
) -> list[Score]:
    """Of these contestants, as far as they have come. refused: reasons by the name of a job or contestant."""
    schedule = Schedule(records, settings, names, range(settings.seeds))
    return [_score(schedule, CONTESTANTS[name], refused) for name in names]


def _score(schedule: Schedule, contestant: Contestant, refused: Mapping[str, str]) -> Score:
    records, name = schedule.records, contestant.name
    jobs = [Job("train", name, 0.0, seed) for seed in range(schedule.settings.seeds)]
    runs = [run for job in jobs if (run := records.get(job)) is not None]
    searched = {
        job.rate: float("nan") if run["diverged"] else mean_dice(run["validation"])
        for job in schedule.searches(name)
        if (run := records.get(job)) is not None
    }
    memory, pace = (records.get(Job(kind, name)) for kind in MEASURED)
    reasons = [f"{job}: {text}" for job, text in refused.items() if contestant_of(job) == name]
    reasons += [f"seed {run['seed']}: {run['diverged']}" for run in runs if run["diverged"]]
    rate = runs[0]["rate"] if runs else schedule.rate(name)
    return Score(contestant, runs, rate, searched, memory, pace, "; ".join(reasons))


def best_peer(scores: Sequence[Score], on: str = "test") -> Score | None:
    """By the cases on which it is compared: no other choice is harder for us."""
    peers = [one for one in scores if one.contestant.role == "peer" and one.runs]
    return max(peers, key=lambda one: one.dice(on), default=None)


def named(scores: Sequence[Score], name: str) -> Score | None:
    """The contestant of a name, if it has been trained."""
    return next((one for one in scores if one.contestant.name == name and one.runs), None)
