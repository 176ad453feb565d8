"""Memory of a cell: bytes saved for backward and resident growth, each in a fresh process."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from arena import Arena
from cases import Case, write
from plan import Cell, Contender
from processes import Process
from results import Result


def weigh(arena: Arena, cell: Cell) -> list[Result]:
    """One result a contender: nothing is timed."""
    results = {one: Result.of(cell, one) for one in cell.contenders}
    for one, result in results.items():
        result.refused = arena.obstacle(one, cell)
    ready = {one: arena.fresh(one) for one, result in results.items() if not result.refused}
    for process in ready.values():
        process.start()
    with tempfile.TemporaryDirectory(dir=arena.scratch) as folder:
        write(cell.case, Path(folder) / "full")
        write(_small(cell.case), Path(folder) / "small")
        for one, process in ready.items():
            with process:
                answer = process.ready()
                results[one].refused = answer.get("refused", "")
                if not results[one].refused:
                    _Scale(arena, cell, one, process, Path(folder)).fill(results[one])
    return list(results.values())


def _small(case: Case) -> Case:
    """Loads the same code, leaves little behind."""
    return replace(case, batch=min(case.batch, 16), depth=4, side=min(case.side, 8))


class _Scale:
    """One contender in a process of its own."""

    def __init__(
        self, arena: Arena, cell: Cell, contender: Contender, process: Process, folder: Path
    ) -> None:
        self.arena, self.cell, self.contender = arena, cell, contender
        self.process, self.folder = process, folder

    def fill(self, result: Result) -> None:
        """Peak first: counting the saved bytes runs the computation too."""
        for case, name in ((_small(self.cell.case), "small"), (self.cell.case, "full")):
            request = {"case": case.as_dict(), "numbers": str(self.folder / name)}
            answer = self._asked("prepare", **request, **{"pass": self.cell.pass_})
            if "refused" not in answer and name == "small":
                answer = self._asked("run")
            if "refused" in answer:
                result.refused = answer["refused"]
                return
        peak = self._asked("peak")
        result.peak_bytes = peak.get("bytes")
        result.refused = peak.get("refused", "")
        saved = self._asked("saved")
        result.saved_bytes, result.saved_how = (
            saved.get("bytes"),
            saved.get("how", saved.get("refused")),
        )

    def _asked(self, do: str, **request: Any) -> dict[str, Any]:
        method, patience = self.contender.method, self.arena.pace.patience
        return self.process.ask(do, patience, method=method, **request)
