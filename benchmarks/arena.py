"""Arena: everyone of a cell runs once, in turn, then again, until the time is used."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, Pass, error, write
from environments import interpreter_of
from machine import available_bytes
from plan import STORE_ALL, Cell, Contender
from processes import Process
from results import Result

LARGEST_BYTES = 10e9
# Of values and gradients against float64, relative; another scheme is off by 0.1 or more.
TOLERANCE = 2e-3
Answer = dict[str, Any]


@dataclass(frozen=True)
class Pace:
    """How long to measure. ``budget``: seconds of rounds a cell; ``patience``: of one answer."""

    budget: float
    least_rounds: int
    most_rounds: int
    patience: float
    pause: float = 0.03  # between two turns, and longer while threads of the last one still spin

    @property
    def is_exact(self) -> bool:
        """Everyone runs so many rounds, whatever they take."""
        return self.least_rounds == self.most_rounds


QUICK = Pace(budget=4, least_rounds=3, most_rounds=25, patience=30)
FULL = Pace(budget=30, least_rounds=5, most_rounds=50, patience=300)


class Arena:
    """The workers, one a module. ``unbuilt``: environments that cannot be used, and why."""

    def __init__(self, pace: Pace, scratch: Path, log: Path, unbuilt: Mapping[str, str]) -> None:
        self.pace, self.scratch, self.log = pace, scratch, log
        self.absent = dict(unbuilt)
        self.room = min(LARGEST_BYTES, 0.6 * available_bytes())  # a run peaks above what it stores
        self.disagreed: dict[tuple[Contender, Pass], str] = {}
        self._processes: dict[str, Process] = {}

    def meet(self, cell: Cell) -> list[Result]:
        """One result a contender."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            self.start(cell.contenders)
            contest = Contest(self, cell, Path(folder))
            try:
                return contest.held()
            finally:
                self.free()

    def start(self, contenders: Iterable[Contender]) -> None:
        """All missing workers at once: loading the libraries takes seconds."""
        begun = {}
        for one in (*contenders, STORE_ALL):
            if one.module not in self._processes and one.environment not in self.absent:
                begun[one.module] = self._processes[one.module] = self.fresh(one)
                begun[one.module].start()
        for module, process in begun.items():
            answer = process.ready()
            if "refused" in answer:
                self.absent[module] = answer["refused"]

    def fresh(self, contender: Contender) -> Process:
        """A process of its own, not yet started."""
        log = self.log / f"{contender.module}.log"
        return Process(interpreter_of(contender.environment), contender.module, log)

    def obstacle(self, contender: Contender, cell: Cell) -> str:
        """Why a contender cannot even be asked."""
        for key in (contender.environment, contender.module):
            if key in self.absent:
                return self.absent[key]
        if disagreed := self.disagreed.get((contender, cell.pass_)):
            return disagreed
        needed = cell.case.stored_bytes(contender.method, cell.pass_)
        if needed > self.room and not contender.is_floor:
            return f"needs {needed / 1e9:.0f} GB"
        return ""

    def ask(self, contender: Contender, do: str, **request: Any) -> Answer:
        process = self._processes[contender.module]
        return process.ask(do, self.pace.patience, method=contender.method, **request)

    def settle(self, contender: Contender) -> None:
        """The pools of whoever ran last must not take time from the next."""
        self._processes[contender.module].settle(self.pace.pause)

    def free(self) -> None:
        """Forget the case everywhere."""
        for module, process in self._processes.items():
            if module not in self.absent and process.alive:
                process.ask("free", self.pace.patience)

    def stop(self) -> None:
        """End every worker."""
        for process in self._processes.values():
            process.stop()


class Contest:
    """One cell: prepare, compare with the reference, warm up, take turns."""

    def __init__(self, arena: Arena, cell: Cell, folder: Path) -> None:
        self.arena, self.cell, self.folder = arena, cell, folder
        self.results = {one: Result.of(cell, one) for one in cell.contenders}
        self.last: dict[Contender, float] = {}
        self.norms: dict[Contender, dict[str, float]] = {}
        self.no_reference = ""  # why there is nothing to compare with

    def held(self) -> list[Result]:
        """The contest."""
        write(self.cell.case, self.folder / "full")
        if self.shrunk:
            write(self.cell.case.shrunk(), self.folder / "small")
        for contender, result in self.results.items():
            result.refused = self.arena.obstacle(contender, self.cell)
            if not result.refused and not contender.is_floor and contender.same_mathematics:
                self._agree(contender, result)
            if not result.refused:
                self._warm(contender, result)
            if not result.refused:
                self.arena.settle(contender)
        self._agree_at_full_size()
        self._rounds()
        return list(self.results.values())

    @property
    def shrunk(self) -> bool:
        """Whether the comparison with float64 is made on a smaller grid."""
        return self.cell.case.shrunk() != self.cell.case

    def _agree(self, contender: Contender, result: Result) -> None:
        """Refuse whoever finds another result, or another gradient, or has nothing to be compared with."""
        name = "small" if self.shrunk else "full"
        case = self.cell.case.shrunk()
        if not self.no_reference and self._prepared(contender, case, name, result):
            out = self.folder / "found.npz"
            answer = self._asked(contender, result, "check", out=str(out))
            if "refused" not in answer and (reference := self._reference(case, name)):
                self._compare(result, out, reference)
                if result.refused and contender.approximate:
                    text = f"{result.refused} (on {self.cell.case.name})"
                    self.arena.disagreed[contender, self.cell.pass_] = text
                if not self.shrunk:
                    self.last[contender] = answer["seconds"]
        result.refused = result.refused or self.no_reference

    def _reference(self, case: Case, name: str) -> Path | None:
        """Float64, computed once; every contender of the cell meets the same one. None where it cannot be had."""
        path = self.folder / f"{name}-reference.npz"
        if not path.exists():
            request = {"case": case.as_dict(), "pass": self.cell.pass_}
            numbers = str(self.folder / name)
            answer = self.arena.ask(
                STORE_ALL, "reference", numbers=numbers, out=str(path), **request
            )
            if "refused" in answer:
                self.no_reference = f"no reference: {answer['refused']}"
                return None
        return path

    def _compare(self, result: Result, found: Path, reference: Path) -> None:
        with np.load(found) as ours, np.load(reference) as wanted:
            result.errors = {name: error(ours, wanted, name) for name in wanted.files}
        worst = max(result.errors, key=lambda name: result.errors[name])
        # Written so that NaN disagrees too.
        if not result.errors[worst] <= TOLERANCE:
            kind = "its value" if worst == "y" else f"its gradient of {worst}"
            result.refused = f"disagrees: {kind} is off by {result.errors[worst]:.1e}"

    def _warm(self, contender: Contender, result: Result) -> None:
        """Compilation and first touch; not counted. A long comparison has warmed already."""
        if self.last.get(contender, 0) > self.arena.pace.budget / 8:
            return
        if contender not in self.last and not self._prepared(
            contender, self.cell.case, "full", result
        ):
            return
        compared = self.shrunk and not contender.is_floor and contender.same_mathematics
        answer = self._asked(contender, result, "norms" if compared else "run")
        self.last[contender] = answer.get("seconds", 0.0)
        self.norms[contender] = answer.get("norms", {})

    def _agree_at_full_size(self) -> None:
        """On a grid too large for float64: norms of value and gradients against the median of the peers'."""
        compared = {one: norms for one, norms in self.norms.items() if norms}
        peers = [norms for one, norms in compared.items() if not one.is_ours]
        if not peers:
            for contender in compared:
                self.results[contender].annotate("not compared at full size: no peer met")
            return
        apart = [
            name
            for name in peers[0]
            if len(peers) == 2 and not abs(peers[0][name] / peers[1][name] - 1) <= TOLERANCE
        ]
        if apart:  # who of two is wrong cannot be told
            for contender in compared:
                self.results[contender].annotate(f"the peers disagree at full size on {apart[0]}")
            return
        middle = {name: float(np.median([one[name] for one in peers])) for name in peers[0]}
        for contender, norms in compared.items():
            for name, value in norms.items():
                off = abs(value / middle[name] - 1)
                if not off <= TOLERANCE:
                    text = f"disagrees at full size: the norm of {name} is off by {off:.1e}"
                    self.results[contender].refused = text

    def _rounds(self) -> None:
        """Who starts changes from round to round; who is slow runs the least number of rounds."""
        pace, begin = self.arena.pace, time.monotonic()
        for number in range(pace.most_rounds):
            ready = [one for one, result in self.results.items() if not result.refused]
            late = time.monotonic() - begin > pace.budget
            if not ready or (late and number >= pace.least_rounds):
                return
            turn = number % len(ready)
            for contender in ready[turn:] + ready[:turn]:
                if number < self._wanted(contender):
                    self._turn(contender)

    def _wanted(self, contender: Contender) -> int:
        """Rounds: all that fit, fewer for whoever would use up the time of the others."""
        pace, seconds = self.arena.pace, max(self.last[contender], 1e-6)
        if pace.is_exact:
            return pace.most_rounds
        if seconds > 3 * pace.budget:
            return 1
        if seconds > pace.budget / 6:
            return min(2, pace.least_rounds)
        return max(pace.least_rounds, int(2 * pace.budget / len(self.results) / seconds))

    def _turn(self, contender: Contender) -> None:
        result = self.results[contender]
        answer = self._asked(contender, result, "run")
        if "seconds" in answer:
            result.seconds.append(answer["seconds"])
            result.firsts.append(answer["first"])
        self.arena.settle(contender)

    def _asked(self, contender: Contender, result: Result, do: str, **request: Any) -> Answer:
        """An answer; prepares again after another method brought the shared worker down."""
        answer = self.arena.ask(contender, do, **request)
        if "unprepared" in answer and self._prepared(contender, self.cell.case, "full", result):
            answer = self.arena.ask(contender, do, **request)
        result.refused = answer.get("refused", "")
        return answer

    def _prepared(self, contender: Contender, case: Case, name: str, result: Result) -> bool:
        numbers, pass_ = str(self.folder / name), self.cell.pass_
        request = {"case": case.as_dict(), "numbers": numbers, "pass": pass_}
        answer = self.arena.ask(contender, "prepare", **request)
        result.refused = answer.get("refused", "")
        if name == "full":  # a shrunk case may be another engine's
            result.annotate(answer.get("note", ""))
        return not result.refused
