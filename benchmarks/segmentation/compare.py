"""keelnet, its controls and its peers trained on the same synthetic cases for the same seconds.

python benchmarks/segmentation/compare.py --out FOLDER
python benchmarks/segmentation/compare.py --out FOLDER --stage cases
python benchmarks/segmentation/compare.py --out FOLDER --only keelnet,zero,unet --seeds 0 --settings seconds=300 training=200

Every run is a process of its own whose record is kept when it is finished: the same command goes on where it was
interrupted, and compare.md, compare.json and the pictures are written again after every run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # after its own folder: environments.py, machine.py

from ceiling import Ceiling  # noqa: E402
from cohort import Cohort, make_missing  # noqa: E402
from contestants import CONTESTANTS  # noqa: E402
from environments import ENVIRONMENTS  # noqa: E402
from jobs import Kind, Records, contestant_of  # noqa: E402
from machine import machine  # noqa: E402
from publish import Publication  # noqa: E402
from schedule import Schedule, Work  # noqa: E402
from settings import Settings  # noqa: E402

from keelnet.experiments.cache import cache_folder  # noqa: E402

STAGES: dict[str, tuple[Kind, ...]] = {
    "cases": (),
    "search": ("search",),
    "train": ("train",),
    "memory": ("memory",),
    "pace": ("pace",),
    "all": ("search", "train", "memory", "pace"),
}


@dataclass(frozen=True)
class Comparison:
    """A folder, its settings and who is in it: ``asked`` runs now, everyone with a record is shown."""

    records: Records
    settings: Settings
    asked: Sequence[str]

    @classmethod
    def begun(cls, out: Path, words: Sequence[str], asked: Sequence[str]) -> Comparison:
        """Settings are the folder's, or the defaults. Raises ValueError where what is asked for cannot be compared with what is there."""
        records = Records(out)
        old = Settings.read(records.settings) if records.settings.exists() else None
        settings = (old or Settings()).changed(words)
        if old is not None and not old.comparable(settings):
            raise ValueError(f"{out} holds runs of other settings; use another --out")
        if old is not None and settings.seeds < old.seeds:
            raise ValueError(
                f"{out} has seeds={old.seeds}, and seeds={settings.seeds} would hide runs; --seeds says which to train now"
            )
        return cls(records, settings, asked)

    def cohorts(self, cases: Path) -> list[Cohort]:
        return [Cohort.of(cases, kind, self.settings) for kind in ("test", "validation", "training")]  # fmt: skip

    @property
    def page(self) -> Path:
        """Its record lies beside it."""
        return self.records.out / "compare.md"

    def told(self) -> dict[str, str]:
        """Why something was missing when the page was last written, by the name of a job or contestant."""
        path = self.page.with_suffix(".json")
        reasons = json.loads(path.read_text()).get("refused", {}) if path.exists() else {}
        return {name: text for name, text in reasons.items() if contestant_of(name) in CONTESTANTS}

    def write(self, refused: dict[str, str]) -> None:
        """Page, record and pictures of what there is; reasons of what has been finished since are left out."""
        ceiling = Ceiling.read(self.records.ceiling)
        missing = {name: text for name, text in refused.items() if not self.records.holds(name)}
        found = Publication(self.records, self.settings, self._machine(), ceiling, missing)
        found.write(self.page)

    def _machine(self) -> dict[str, str]:
        found = machine()
        kept = ("type", "system", "versions", "date")
        return {label: found[label] for label in kept} | {"threads": f"{self.settings.threads} a run"}  # fmt: skip


def main() -> None:
    """Do what is missing, as far as the minutes go."""
    arguments = _arguments()
    try:
        asked = _names(arguments.only)
        comparison = Comparison.begun(arguments.out, arguments.settings, asked)
        _require(arguments, comparison.settings)
        with _alone(comparison.records.runs):
            comparison.settings.write(comparison.records.settings)
            _compare(comparison, arguments)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _compare(comparison: Comparison, arguments: argparse.Namespace) -> None:
    deadline = time.monotonic() + 60 * arguments.minutes
    settings, kinds = comparison.settings, STAGES[arguments.stage]
    if arguments.stage not in ("memory", "pace"):
        cohorts = comparison.cohorts(arguments.cases)
        make_missing(cohorts, arguments.processes)
        if not comparison.records.ceiling.exists():
            judged = cohorts[0] if settings.test else cohorts[1]
            Ceiling.of(judged).write(comparison.records.ceiling)
    tried = comparison.asked if kinds else []
    told = {name: text for name, text in comparison.told().items() if name not in tried}
    refused = _unbuilt(tried)
    names = [name for name in comparison.asked if name not in refused]
    seeds = arguments.seeds if arguments.seeds is not None else range(settings.seeds)
    schedule = Schedule(comparison.records, settings, names, list(seeds), kinds)
    work = Work(comparison.records, schedule, arguments.cases, arguments.processes, deadline, lambda: None, refused)  # fmt: skip
    work.done = lambda: comparison.write(told | work.failed)
    try:
        work.run()
    finally:
        comparison.write(told | work.failed)
    left = len(work.waiting())
    ending = f"{left} known jobs wait; the same command goes on from here" if left else "nothing waits"  # fmt: skip
    print(f"wrote {comparison.records.out}/compare.md; {ending}")
    for name, reason in work.failed.items():
        print(f"{name}: {reason}", file=sys.stderr)


def _require(arguments: argparse.Namespace, settings: Settings) -> None:
    if arguments.processes < 1:
        raise ValueError(f"--processes must be at least 1, got {arguments.processes}")
    if any(not 0 <= seed < settings.seeds for seed in arguments.seeds or []):
        raise ValueError(
            f"--seeds are 0 to {settings.seeds - 1}, got {arguments.seeds}; for more, pass --settings seeds=N"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--cases", type=Path, default=cache_folder() / "comparison", help="prepared cases, shared"
    )
    parser.add_argument("--only", default="", help="contestants, comma separated; all if not given")
    parser.add_argument("--seeds", type=int, nargs="+", help="those to train now; all if not given")
    parser.add_argument("--processes", type=int, default=2, help="runs beside each other")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="then start no more runs")  # fmt: skip
    parser.add_argument("--stage", choices=STAGES, default="all", help="cases: make them and stop")
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def _names(only: str) -> list[str]:
    names = only.split(",") if only else list(CONTESTANTS)
    if unknown := [name for name in names if name not in CONTESTANTS]:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    return names


def _unbuilt(names: Sequence[str]) -> dict[str, str]:
    """Build what is missing; the reason for each contestant whose environment cannot be."""
    wanted = {CONTESTANTS[name].environment for name in names} - {""}
    reasons = {name: ENVIRONMENTS[name].build() for name in sorted(wanted)}
    return {name: reason for name in names if (reason := reasons.get(CONTESTANTS[name].environment))}  # fmt: skip


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises ValueError while another program works on this folder; the system frees the lock of a killed one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another comparison is at work in {folder.parent}") from None
        yield


if __name__ == "__main__":
    # What makes cases computes on one thread a process.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
