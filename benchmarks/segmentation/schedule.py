"""Schedule: which jobs there are, in which order, and how they run beside each other."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from contestants import CONTESTANTS, OF_OURS
from jobs import Finished, Job, Kind, Record, Records
from settings import Settings

REGIONS = ("WT", "TC", "ET")
# Steps beyond the grid of rates, at most: where everything diverges no rate is the best.
BEYOND = 3


def mean_dice(columns: Record) -> float:
    """Over cases and regions."""
    return float(np.mean([columns[name] for name in REGIONS]))


def worth(record: Record) -> float:
    """Of a learning rate: the validation Dice of its run, nothing where it diverged."""
    return float("-inf") if record["diverged"] else mean_dice(record["validation"])


@dataclass(frozen=True)
class Schedule:
    """The jobs of contestants, by name, and seeds, of which some are finished."""

    records: Finished
    settings: Settings
    names: Sequence[str]
    seeds: Sequence[int]
    kinds: Sequence[Kind] = ("search", "train", "memory", "pace")

    def jobs(self) -> Iterator[Job]:
        """Everything that can be said now, first things first: rates, a seed of everyone, memory and pace, more seeds, our variants."""
        trained = [
            name for name in self.names if CONTESTANTS[name].role not in (*OF_OURS, "weighed")
        ]
        deep = [name for name in self.names if CONTESTANTS[name].role in OF_OURS]
        sources = dict.fromkeys(CONTESTANTS[name].rate_of or name for name in trained + deep)
        if "search" in self.kinds:
            for name in sources:
                yield from self.searches(name)
        if "train" in self.kinds:
            yield from self._trains(trained, self.seeds[:1])
        if "memory" in self.kinds:
            yield from (Job("memory", name) for name in self.names)
        if "pace" in self.kinds:
            yield from (Job("pace", name) for name in self.names)
        if "train" in self.kinds:
            for seed in self.seeds[1:]:
                yield from self._trains(trained, [seed])
            yield from self._trains(deep, self.seeds[: self.settings.deep_seeds])

    def _trains(self, names: Sequence[str], seeds: Sequence[int]) -> Iterator[Job]:
        for seed in seeds:
            for name in names:
                rate = self.rate(name)
                if rate is not None:
                    yield Job("train", name, rate, seed)

    def searches(self, name: str) -> list[Job]:
        """The grid, and steps beyond it until the best lies inside: no one is left with a rate at the edge of what was tried."""
        rates: Sequence[float] = self.settings.rates
        if len(rates) == 1:
            return []
        for _ in range(BEYOND):
            found = [self.records.get(Job("search", name, rate)) for rate in rates]
            if None in found:
                break
            rates = _widened(rates, [worth(record) for record in found if record is not None])
        return [Job("search", name, rate) for rate in rates]

    def rate(self, name: str) -> float | None:
        """What was found for it or for whom it follows; None while that is not known."""
        source = CONTESTANTS[name].rate_of or name
        if len(self.settings.rates) == 1:
            return self.settings.rates[0]
        jobs = self.searches(source)
        found = [self.records.get(job) for job in jobs]
        if None in found:
            return None
        return jobs[int(np.argmax([worth(one) for one in found if one is not None]))].rate


def _widened(rates: Sequence[float], values: Sequence[float]) -> list[float]:
    """With the next rate where the best is the first or the last."""
    best = int(np.argmax(values))
    if best == 0:
        return [rates[0] ** 2 / rates[1], *rates]
    return [*rates, rates[-1] ** 2 / rates[-2]] if best == len(rates) - 1 else [*rates]


@dataclass
class Work:
    """Jobs of a schedule, ``processes`` at a time, memory alone among its like and pace alone; ``done`` hears of each."""

    records: Records
    schedule: Schedule
    cases: Path
    processes: int
    deadline: float
    done: Callable[[], None]
    failed: dict[str, str] = field(default_factory=dict)
    running: dict[Job, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self) -> None:
        """Until nothing is left that can be done, or the time for starting is over."""
        try:
            while self._fill() or self.running:
                self._wait()
        finally:
            for process in self.running.values():
                process.kill()
                process.wait()

    def waiting(self) -> list[Job]:
        """Neither finished, nor failed, nor at work."""
        jobs = [job for job in self.schedule.jobs() if job.name not in self.failed]
        return [job for job in jobs if job not in self.running and self.records.get(job) is None]

    def _fill(self) -> bool:
        """Start what there is room for; whether anything was."""
        started = False
        for job in self.waiting():
            if len(self.running) >= self.processes or time.monotonic() > self.deadline:
                break
            if job.kind == "memory" and any(one.kind == "memory" for one in self.running):
                continue
            if self.running and "pace" in (job.kind, *(one.kind for one in self.running)):
                break
            threads = self.schedule.settings.threads
            self.running[job] = self.records.start(job, self.cases, threads)
            _say(f"{job.name} begins")
            started = True
        return started

    def _wait(self) -> None:
        """Until one ends."""
        while not (ended := [job for job, one in self.running.items() if one.poll() is not None]):
            time.sleep(0.2)
        for job in ended:
            code = self.running.pop(job).returncode
            if reason := self.records.failure(job, code):
                self.failed[job.name] = reason
            _say(f"{job.name} {reason or 'is finished'}, {len(self.waiting())} known jobs wait")
        self.done()


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
