"""One contender's process: reads a JSON line, does what it asks, answers with a JSON line.

Run by the peer's own interpreter: worker.py MODULE, where MODULE is a file of ``contenders/``.
Requests, by their ``do``:
prepare (case, numbers, method, pass) → note; the methods of one case are held side by side
run (method) → seconds
check (method, out) → seconds; y and the gradients of the checked samples are written to ``out``
norms (method) → seconds, ‖y‖ and the norms of the gradients
saved (method) → bytes, how
peak (method) → resident growth of one run, in bytes
reference (case, numbers, pass, out) → nothing; only keelnet
free → nothing
An answer has ``ok``, or ``refused`` with the reason.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import statistics
import sys
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, checked_rows, masked, read
from contenders.task import RefusedError, Task

Request = dict[str, Any]
NEED_A_TASK = ("run", "check", "norms", "saved", "peak")


TURN = 0.03  # seconds, at least


class Worker:
    """Holds the prepared tasks of one case, one a method."""

    def __init__(self, module: str) -> None:
        self.contender = import_module(f"contenders.{module}")
        self.tasks: dict[str, Task] = {}
        self.case: Case | None = None
        self.numbers: dict[str, np.ndarray] = {}

    def answer(self, request: Request) -> Request:
        """What ``do`` asks for, or the reason why not."""
        method = request.get("method")
        if request["do"] in NEED_A_TASK and method not in self.tasks:
            return {"refused": "not prepared", "unprepared": True}
        try:
            return {"ok": True, **getattr(self, request["do"])(request)}
        except RefusedError as reason:
            return {"refused": str(reason)}
        except Exception as reason:
            traceback.print_exc()
            self.tasks.pop(method, None)
            said = (str(reason).splitlines() or [""])[0][:160]
            return {"refused": f"{type(reason).__name__}: {said}"}

    def prepare(self, request: Request) -> Request:
        self.case, self.numbers = Case(**request["case"]), read(Path(request["numbers"]))
        method = request["method"]
        task = self.contender.prepare(self.case, self.numbers, method, request["pass"])
        self.tasks[method] = task
        return {"note": task.note}

    def run(self, request: Request) -> Request:
        """A turn: short calls are made again, as a training loop does, and the median counts."""
        task, times = self.tasks[request["method"]], []
        while not times or sum(times) < TURN:
            begin = time.perf_counter()
            task.run()
            times.append(time.perf_counter() - begin)
            task.rest()
        return {"seconds": statistics.median(times), "first": times[0]}

    def check(self, request: Request) -> Request:
        task = self.tasks[request["method"]]
        begin = time.perf_counter()
        outcome = task.outcome(masked(self.case, self.numbers["cotangent"]))
        seconds = time.perf_counter() - begin
        rows = checked_rows(self.case)
        cut = {name: v if name == "weight" else v[:rows] for name, v in outcome.items()}
        np.savez(request["out"], **cut)
        task.rest()
        return {"seconds": seconds}

    def norms(self, request: Request) -> Request:
        task = self.tasks[request["method"]]
        begin = time.perf_counter()
        outcome = task.outcome(self.numbers["cotangent"])
        seconds = time.perf_counter() - begin
        norms = {name: float(np.linalg.norm(v)) for name, v in outcome.items()}
        task.rest()
        return {"norms": norms, "seconds": seconds}

    def saved(self, request: Request) -> Request:
        found = self.tasks[request["method"]].saved()
        if found is None:
            raise RefusedError("not counted")
        return {"bytes": found[0], "how": found[1]}

    def peak(self, request: Request) -> Request:
        gc.collect()
        _trim()
        resets = _reset_peak()
        before = _resident("VmRSS")
        self.tasks[request["method"]].run()
        after = _resident("VmHWM") if resets else _most_ever()
        return {"bytes": max(after - before, 0)}

    def reference(self, request: Request) -> Request:
        case, numbers = Case(**request["case"]), read(Path(request["numbers"]))
        np.savez(request["out"], **self.contender.reference(case, numbers, request["pass"]))
        return {}

    def free(self, request: Request) -> Request:
        self.tasks, self.numbers = {}, {}
        gc.collect()
        _trim()
        return {}


def _trim() -> None:
    """Give freed memory back, so that one case does not pay for or profit from the last."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def _resident(entry: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return 1024 * int(line.split()[1])
    return _most_ever()


def _most_ever() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def main() -> None:
    """Answer until the input ends. Output of the libraries goes to the log, not into the answers."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(20000)  # a thousand nested layers of a graph are not a mistake
    try:
        worker = Worker(sys.argv[1])
    except Exception as reason:
        print(json.dumps({"refused": f"{type(reason).__name__}: {reason}"}), file=answers)
        return
    print(json.dumps({"ok": True}), file=answers)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
