"""Jobs: one run each, in a process of its own, whose record is kept when it is finished."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from contestants import CONTESTANTS
from environments import interpreter_of
from machine import processor, versions

HERE = Path(__file__).parent
Record = dict[str, Any]
Kind = Literal["search", "train", "memory", "pace"]


@dataclass(frozen=True)
class Job:
    """memory, pace: bytes, seconds of a training step. search: a short run at a rate, seed 0. train: a run of the table."""

    kind: Kind
    contestant: str
    rate: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file; a trained run is found whatever rate was chosen."""
        tail = {"memory": "", "pace": "", "search": f"@{self.rate:g}", "train": f"@{self.seed}"}[
            self.kind
        ]
        return f"{self.kind}-{self.contestant}{tail}"


def contestant_of(name: str) -> str:
    """Of the name of a job; of a contestant its own."""
    return name if name in CONTESTANTS else name.partition("-")[2].partition("@")[0]


class Finished(Protocol):
    """Where the records of finished jobs are."""

    def get(self, job: Job) -> Record | None:
        """None where there is none."""


def own(job: Job, record: Record, path: Path) -> Record | None:
    """The record; None for one that only says why nothing was measured, as earlier versions kept them.

    Raises ValueError where it is of a contestant of this name that was another network.
    """
    if record["design"] != CONTESTANTS[job.contestant].described:
        raise ValueError(
            f"{path} is of another network called {job.contestant}: {record['design']};"
            " give the new one another name, or use another --out"
        )
    return None if "refused" in record else record


@dataclass(frozen=True)
class Records:
    """The folder of a comparison: settings.json and, in runs/, a record a finished job, a log a job, and ceiling.json."""

    out: Path

    @property
    def settings(self) -> Path:
        return self.out / "settings.json"

    @property
    def runs(self) -> Path:
        return self.out / "runs"

    @property
    def ceiling(self) -> Path:
        """What the labels allow."""
        return self.runs / "ceiling.json"

    def get(self, job: Job) -> Record | None:
        """None while it is not finished. Raises ValueError as `own` does."""
        path = self.runs / f"{job.name}.json"
        if not path.exists():
            return None
        return own(job, json.loads(path.read_text()), path)

    def holds(self, name: str) -> bool:
        """Whether the job of this name is finished."""
        path = self.runs / f"{name}.json"
        return path.exists() and "refused" not in json.loads(path.read_text())

    def keep(self, job: Job, record: Record) -> None:
        """Whole or not at all."""
        self.runs.mkdir(parents=True, exist_ok=True)
        temporary = self.runs / f".{job.name}.{os.getpid()}.new"
        about = asdict(job) | {
            "design": CONTESTANTS[job.contestant].described,
            "processor": processor(),
            "versions": versions("keelnet", "torch"),
        }
        temporary.write_text(json.dumps(rounded(about | record)) + "\n")
        temporary.replace(self.runs / f"{job.name}.json")

    def start(self, job: Job, cases: Path, threads: int) -> subprocess.Popen[bytes]:
        """A process for a job; it ends when this one does."""
        log = self._log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        interpreter = interpreter_of(CONTESTANTS[job.contestant].environment)
        command = [interpreter, HERE / "worker.py", self.out, cases, json.dumps(asdict(job))]
        environment = os.environ | {
            f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "NUMBA")
        }
        with log.open("wb") as file:
            return subprocess.Popen(
                [*map(str, command), str(os.getpid())], stdout=file, stderr=file, env=environment
            )

    def failure(self, job: Job, code: int) -> str:
        """Why a job that ended with ``code`` left no record; empty where it did."""
        if code == 0 and self.get(job) is not None:
            return ""
        said = self._log(job).read_text(errors="replace").strip().splitlines()
        return f"ended with code {code}: {said[-1] if said else 'it said nothing'}"

    def _log(self, job: Job) -> Path:
        return self.runs / "log" / f"{job.name}.txt"


def rounded(value: Any) -> Any:
    """Floats to five digits: nothing here is known better, and records stay small."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value
