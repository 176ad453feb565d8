"""Q-tips: what does depth buy where a label depends on what stands far away, and who can be trained there?

Run from the project's root: .venv/bin/python benchmarks/qtips.py --out FOLDER [--quick]
Accuracy on rod pixels against depth and rod length for the plain residual network, MONAI's UNet, the
antisymmetric and the Verlet network at equal parameters and equal steps, one thread. Every run is a
process of its own whose record is kept when it is finished: an interrupted study goes on where it was,
and all records (qtips.json), the table (qtips.md) and the picture (qtips.png) are written again after every run. The
cheapest runs come first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from qtips_networks import DEPTHS, NETWORKS
from qtips_page import write_page
from qtips_run import Job, Record, keep, run


@dataclass(frozen=True)
class Settings:
    """Of a study. A search of so many steps at each of ``probes`` (depth, steps) sets rate and step of depths from there on.

    First the rates at the middle one of ``step_sizes``, then these at the best rate; on rods of length ``probe_length`` and a seed
    that no run of the study has.
    """

    size: int = 24
    rods: int = 6
    batch: int = 8
    steps: int = 700
    depths: Sequence[int] = DEPTHS
    lengths: Sequence[float] = (8, 12)
    seeds: int = 2
    probes: Sequence[tuple[int, int]] = ((16, 400), (64, 250))
    probe_length: float = 8
    search_seed: int = 100
    rates: Sequence[float] = (1e-2, 3e-2, 1e-1, 3e-1)
    step_sizes: Sequence[float] = (0.5, 0.25, 1.0)


QUICK = Settings(steps=40, depths=(4, 16), lengths=(8,), seeds=1, probes=((16, 10),), rates=(1e-2,))


@dataclass(frozen=True)
class Study:
    """A folder: settings.json, runs/, qtips.json, qtips.md, qtips.png. ``deadline`` of starting runs, by `time.monotonic`."""

    out: Path
    settings: Settings
    deadline: float

    def begin(self) -> None:
        """Raises ValueError for a folder that holds a study of other settings."""
        path, wanted = self.out / "settings.json", json.loads(json.dumps(asdict(self.settings)))
        if not path.exists():
            keep(path, wanted)
        elif json.loads(path.read_text()) != wanted:
            raise ValueError(f"{self.out} holds a study of other settings; use another --out")

    def jobs(self) -> list[tuple[str, int, float, int]]:
        """(network, depth, length, seed); those that say most for their seconds first: shallow, short rods, first seeds."""
        settings = self.settings
        cells = [
            (name, depth, length, seed)
            for seed in range(settings.seeds)
            for depth in settings.depths
            for length in settings.lengths
            for name in NETWORKS
        ]
        return sorted(cells, key=lambda cell: cell[1] * cell[2] ** 2 * (1 + 3 * cell[3]))

    def run(self) -> None:
        """Everything that is not there yet."""
        for name, depth, length, seed in self.jobs():
            rate, step = self.chosen(name, depth)
            self.record(self._job("study", name, depth, length, seed, rate, step))
            self.write()

    def chosen(self, name: str, depth: int) -> tuple[float, float]:
        """Rate and step of the best short run at the deepest probe that is not deeper (or the first)."""
        probes = sorted(self.settings.probes)
        below = [probe for probe in probes if probe[0] <= depth]
        tried = list(self.searched(name, *(below[-1] if below else probes[0])))
        best = max(tried, key=_found)["job"]
        return best["rate"], best["step"]

    def searched(self, name: str, depth: int, steps: int) -> Iterator[Record]:
        """Records of the search; the UNet has no step to choose."""
        settings = self.settings
        middle, *others = settings.step_sizes
        rates = [self._search(name, depth, steps, rate, middle) for rate in settings.rates]
        yield from rates
        best = max(rates, key=_found)["job"]["rate"]
        for step in others if name != "unet" else ():
            yield self._search(name, depth, steps, best, step)

    def record(self, job: Job) -> Record:
        """Of a finished run; runs it in a process of its own if there is none, or one at another rate or step."""
        path = self.out / "runs" / f"{job.name}.json"
        if not path.exists() or json.loads(path.read_text())["job"] != asdict(job):
            if time.monotonic() > self.deadline:
                raise TimeoutError
            print(job.name, end=" ", flush=True)
            _alone(job, path)
            done = json.loads(path.read_text())
            print(f"{_found(done):.3f} {done['seconds']:.0f} s", flush=True)
        found: Record = json.loads(path.read_text())
        return found

    def write(self) -> None:
        """Table and picture of what there is."""
        paths = sorted((self.out / "runs").glob("*.json"))
        write_page(self.out, [json.loads(path.read_text()) for path in paths])

    def _search(self, name: str, depth: int, steps: int, rate: float, step: float) -> Record:
        settings = self.settings
        length, seed = settings.probe_length, settings.search_seed
        return self.record(
            replace(self._job("search", name, depth, length, seed, rate, step), steps=steps)
        )

    def _job(
        self,
        purpose: str,
        name: str,
        depth: int,
        length: float,
        seed: int,
        rate: float,
        step: float,
    ) -> Job:
        settings = self.settings
        fixed = (settings.steps, settings.batch, settings.size, settings.rods)
        return Job(purpose, name, depth, length, seed, rate, step, *fixed)


def _found(record: Record) -> float:
    return float(record["rod_accuracy"] or 0.0)


def _alone(job: Job, path: Path) -> None:
    """In a fork of this process, which has imported everything and computed next to nothing."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(job, path))
    process.start()
    process.join()
    if process.exitcode:
        raise ChildProcessError(f"{job.name} ended with {process.exitcode}")


def main() -> None:
    """Run what is missing, as far as the minutes go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a minute: does all of it work?")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="then start no more runs"
    )
    parser.add_argument("--lengths", type=float, nargs="+")
    parser.add_argument("--depths", type=int, nargs="+", choices=DEPTHS)
    for name in ("size", "rods", "steps", "seeds"):
        parser.add_argument(f"--{name}", type=int)
    given = vars(parser.parse_args())
    out, quick, minutes = (given.pop(name) for name in ("out", "quick", "minutes"))
    changes = {key: value for key, value in given.items() if value is not None}
    settings = replace(QUICK if quick else Settings(), **changes)
    torch.set_num_threads(1)
    study = Study(out, settings, time.monotonic() + 60 * minutes)
    try:
        study.begin()
        study.run()
    except TimeoutError:
        print("the minutes are over; the same command goes on from here")
    except (ValueError, ChildProcessError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    finally:
        if (out / "runs").exists():
            study.write()


if __name__ == "__main__":
    main()
