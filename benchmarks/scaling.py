"""Several processes: what a step takes, in time, memory and bytes on the wire, beside what docs/scaling.md foretells.

Run from the project's root: .venv/bin/python benchmarks/scaling.py [--case dense] [--rounds 3] [--out FOLDER]
Each round trains, in turn and in fresh processes of one thread each: one process on the whole batch, one on half of it,
two that do not talk on half each, two on the whole (gloo over loopback). Medians of the steps of all rounds and their
spread are printed; the time of two processes is foretold from those that do not talk and an all-reduce alone, so that
another program on the machine costs both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

STEPS, FIRST = 11, 3  # steps of a run, and how many of them come before the timed ones
NETWORK = Path("/proc/net/dev")
JOB = "SCALING_JOB"  # the variable that makes this program one of the processes


@dataclass(frozen=True)
class Case:
    """A network of architectures.hamiltonian, and a batch."""

    name: str
    inputs: int
    space: tuple[int, ...]
    width: int
    depth: int
    batch: int

    @property
    def text(self) -> str:
        """For the table's heading."""
        points = f", {'×'.join(map(str, self.space))} points" if self.space else ""
        return f"{self.name}: width {self.width}, {self.depth} layers{points}, batch {self.batch}"


@dataclass(frozen=True)
class Plan:
    """How many processes: each given one of so many parts of the batch, or together the whole."""

    text: str
    processes: int
    parts: int
    connected: bool = False


PLANS = {
    "one": Plan("1 process", 1, 1),
    "half": Plan("1 process, half the batch", 1, 2),
    "apart": Plan("2 processes that do not talk, half the batch each", 2, 2),
    "two": Plan("2 processes", 2, 1, connected=True),
}
CASES = (
    Case("dense", 64, (), 512, 64, 512),  # many parameters, little work: what is sent counts
    Case("image", 4, (64, 64), 16, 16, 32),  # few parameters, much work: the states count
)
STRATEGIES = ("store_all", "reversible")


def main() -> None:
    """Print a Markdown table a case and strategy; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=[case.name for case in CASES], help="only this one")
    parser.add_argument("--strategy", choices=STRATEGIES, help="only this one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    for case in CASES:
        for strategy in STRATEGIES:
            if given.case in (None, case.name) and given.strategy in (None, strategy):
                found = measured(case, strategy, given.rounds)
                print(table(found), flush=True)
                if given.out:
                    keep(given.out / "scaling.json", f"{case.name} {strategy}", found)


def keep(path: Path, name: str, found: dict[str, Any]) -> None:
    """Beside the cases that are there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {name: found}, indent=2) + "\n")


def measured(case: Case, strategy: str, rounds: int) -> dict[str, Any]:
    """Every run of every round, and the table's rows."""
    runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in PLANS}
    loads = []
    for _ in range(rounds):
        loads.append(os.getloadavg()[0])
        for name, plan in PLANS.items():
            job = asdict(case) | {"strategy": strategy, "batch": case.batch // plan.parts}
            runs[name].append(together(job, plan))
    rows = {name: summary(found) for name, found in runs.items()}
    about = {"case": case.text, "strategy": strategy, "loads": loads}
    return about | {"rows": rows, "foretold": foretold(rows), "runs": runs}


def together(job: dict[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """What each of these processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {JOB: json.dumps(job), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    if plan.connected:
        shared |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, __file__], env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(plan.processes)
    ]
    said = [each.communicate()[0] for each in started]
    if any(each.returncode for each in started):
        raise SystemExit(f"a process failed: {job}")
    return [json.loads(each.splitlines()[-1]) for each in said]


def summary(rounds: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over all rounds and processes, the largest process of each for memory."""
    every = [each for found in rounds for each in found]
    seconds = [value for each in every for value in each["seconds"]]
    peak = statistics.median(max(each["peak"] for each in found) for found in rounds)
    spread = {"seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    names = every[0].keys() - {"seconds"}
    medians = {name: statistics.median(each[name] for each in every) for name in names}
    return medians | spread | {"peak": peak}


def foretold(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The model of docs/scaling.md for two processes, from one on half the batch and from two that do not talk."""
    half, apart, two = rows["half"], rows["apart"], rows["two"]
    small, sending = 4 * half["parameters"], two["reduce"] + two["latency"]
    return {
        "seconds": apart["seconds"] + sending,
        "least": apart["least"] + sending,
        "cpu": half["cpu"],
        "sent": 2 * small,  # by both: each 2 (p - 1) / p × 4 bytes × parameters
        "peak": half["peak"] + small,  # the buckets that are sent
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    rows, model, two = found["rows"], found["foretold"], found["rows"]["two"]
    lines = [
        f"\n{found['case']}, `{found['strategy']}`, {round(two['parameters']):,} parameters; load of the machine"
        f" {min(found['loads']):.1f}–{max(found['loads']):.1f}\n",
        "| | a step ms: median (least – most) | processor ms a process | sent MB a step, all | peak growth MB a process | of it counted |",
        "|---|---|---|---|---|---|",
    ]
    for name, plan in PLANS.items():
        row = rows[name]
        # Parameters, gradient, two moments, the best iterate; then what is kept for backward, or Adam's quotient and root.
        counted = 20 * row["parameters"] + max(row["kept"], 8 * row["parameters"])
        cells = [
            f"{1e3 * row['seconds']:.0f} ({1e3 * row['least']:.0f} – {1e3 * row['most']:.0f})",
            f"{1e3 * row['cpu']:.0f}",
            f"{row['sent'] / 1e6:.2f}",
            f"{row['peak'] / 1e6:.0f}",
            "" if plan.connected else f"{counted / 1e6:.0f}",
        ]
        lines.append(f"| {plan.text} | {' | '.join(cells)} |")
    lines += [
        f"| foretold of these | {1e3 * model['seconds']:.0f} ({1e3 * model['least']:.0f} – ) | {1e3 * model['cpu']:.0f}"
        f" | {model['sent'] / 1e6:.2f} | {model['peak'] / 1e6:.0f} | |",
        f"\nAn all-reduce of the gradient alone: {1e3 * two['reduce']:.1f} ms; of one number: {1e3 * two['latency']:.2f} ms.",
    ]
    return "\n".join(lines)


def worker(job: dict[str, Any]) -> None:
    """One of the processes: train for a few steps as `keelnet train` does, print what was found."""
    import torch

    from keelnet.experiments.resident import peak_since, status_of
    from keelnet.learning.processes import team_of

    torch.set_num_threads(1)
    team, _ = team_of(torch.device("cpu"))
    _trained(job | {"depth": 1, "batch": 8}, team)  # libraries and compiled code are loaded
    peak_since()
    before = status_of("VmRSS")
    network, clock = _trained(job, team)
    peak = peak_since() - before
    parameters = sum(value.numel() for value in network.parameters())
    found = clock.found() | {"peak": peak, "parameters": parameters}
    found |= _reduced(team, parameters) if team.share.size > 1 else {}
    print(json.dumps(found | {"kept": _kept(network, clock.samples, job["batch"])}))


def _trained(job: dict[str, Any], team: Any) -> tuple[Any, _Clock]:
    """A network after an epoch, and when its steps were."""
    import torch

    from keelnet.learning import Adam, Budget, Objective, Training, descend
    from keelnet.learning.validation import scored

    network, clock = _network(job), _Clock(_samples(job))
    score = scored(clock.samples, lambda logits, labels: {"none": 0.0}, 4)
    training = Training(Adam(1e-3), Budget(1), job["batch"], "none")
    generator = torch.Generator().manual_seed(0)
    for _ in descend(network, Objective(), clock, training, score, generator, team=team):
        pass
    return network, clock


def _network(job: dict[str, Any]) -> Any:
    import keelnet as kn

    sizes = {"width": job["width"], "depth": job["depth"], "dim": len(job["space"])}
    strategy = getattr(kn, job["strategy"])
    return kn.architectures.hamiltonian(job["inputs"], 4, strategy=strategy, **sizes)


def _samples(job: dict[str, Any]) -> Any:
    import torch

    from keelnet.data.samples import InMemory

    count = STEPS * job["batch"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, job["inputs"], *job["space"], generator=generator)
    labels = torch.arange(count) % 4
    return InMemory((x, labels), (x[:4], labels[:4]), ("a", "b", "c", "d"))


class _Clock:
    """A source of samples that notes when each step ends, and what the loopback has carried."""

    def __init__(self, samples: Any) -> None:
        self.samples, self.count = samples, samples.count
        self.marks: list[tuple[float, float, int]] = []

    def batches(self, *arguments: Any) -> Iterator[Any]:
        """Those of the samples."""
        for batch in self.samples.batches(*arguments):
            self.mark()
            yield batch
        self.mark()

    def mark(self) -> None:
        """A step has ended, the next begins."""
        self.marks.append((time.perf_counter(), time.process_time(), _sent()))

    def found(self) -> dict[str, Any]:
        """Seconds of each step; processor seconds and bytes of the mean one."""
        marks = self.marks[FIRST:]
        seconds = [end[0] - begin[0] for begin, end in pairwise(marks)]
        cpu, sent = ((marks[-1][i] - marks[0][i]) / len(seconds) for i in (1, 2))
        return {"seconds": seconds, "cpu": cpu, "sent": sent}


def _sent() -> int:
    """Bytes that the loopback has carried, of every program."""
    (line,) = (line for line in NETWORK.read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def _reduced(team: Any, parameters: int) -> dict[str, float]:
    """Seconds of an all-reduce of as many numbers, and of one."""
    import torch

    found = {}
    for name, count, times in (("reduce", parameters, 7), ("latency", 1, 101)):
        seconds = []
        for _ in range(times):
            begin = time.perf_counter()
            team.total(torch.ones(count))
            seconds.append(time.perf_counter() - begin)
        found[name] = statistics.median(seconds)
    return found


def _kept(network: Any, samples: Any, batch: int) -> int:
    """Bytes that one process saves for the backward pass of a batch."""
    from torch.nn import functional

    from keelnet.analysis.memory import saved_bytes

    x, labels = (part[:batch] for part in samples.training)
    own = [*network.parameters(), x, labels]
    return saved_bytes(lambda: functional.cross_entropy(network(x), labels), excluded=own)


if __name__ == "__main__":
    worker(json.loads(os.environ[JOB])) if JOB in os.environ else main()
