"""The report: one self-contained HTML file that opens offline."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from keelnet.experiments.memory import Kept, memory_picture, strategy_memory
from keelnet.experiments.pages import Picture, page
from keelnet.experiments.runs import Run, load_run

CAPTIONS = {
    "figure2_euler": "Fig. 2 of the source: explicit Euler on 21 identical layers.",
    "figure3_verlet_plane": "Fig. 3 of the source, y in the plane: Verlet, 20 to 1000 identical layers.",
    "figure3_verlet_space": "Fig. 3 of the source as printed, y in space: Verlet, 20 to 1000 identical layers.",
    "misprint": "What the misprinted K + Kᵀ would have given, beside K − Kᵀ.",
}


def report(folder: Path, shown_as: Path) -> str:
    """The page for a demonstration folder with ``reproduce``, ``digits`` and ``tissue``.

    ``shown_as`` is the folder's name in the commands that the page prints.
    """
    seed = json.loads((folder / "reproduce" / "results.json").read_text(encoding="utf-8"))
    digits, tissue = load_run(folder / "digits"), load_run(folder / "tissue")
    memory = strategy_memory()
    values = {
        "verdicts": seed["verdicts"],
        "figures": _figures(folder / "reproduce"),
        "digits": digits,
        "digits_pictures": _pictures(digits, {"curves.png": "Training on handwritten digits."}),
        "tissue": tissue,
        "tissue_pictures": _pictures(
            tissue,
            {
                "overlay.png": "Truth beside prediction on withheld slices of the real T1.",
                "curves.png": "Training on tissue slices.",
            },
        ),
        "memory": _memory_table(memory),
        "memory_picture": Picture.of(
            memory_picture(memory), "Bytes saved for backward, parameters excluded."
        ),
        "commands": _commands(shown_as),
    }
    return page("report.html", values)


def _figures(folder: Path) -> list[Picture]:
    return [
        Picture.of(path.read_bytes(), CAPTIONS[path.stem]) for path in sorted(folder.glob("*.png"))
    ]


def _pictures(run: Run, captions: dict[str, str]) -> list[Picture]:
    return [
        Picture.of((run.folder / name).read_bytes(), caption) for name, caption in captions.items()
    ]


def _memory_table(rows: Sequence[Kept]) -> dict[str, dict[int, str]]:
    """Strategy → depth → megabytes."""
    table: dict[str, dict[int, str]] = {}
    for row in rows:
        table.setdefault(row.strategy, {})[row.depth] = f"{row.bytes / 1e6:.2f}"
    return table


def _commands(folder: Path) -> dict[str, str]:
    """The exact command of every part."""

    def out(part: str = "") -> str:
        return shlex.quote(str(Path(folder) / part))

    return {
        "whole": f"keelnet demo --out {out()}",
        "reproduce": f"keelnet reproduce --out {out('reproduce')}",
        "digits": f"keelnet train digits --out {out('digits')}",
        "tissue": f"keelnet train tissue --out {out('tissue')}",
        "memory": "python -c 'from keelnet.experiments.memory import strategy_memory;"
        " print(*strategy_memory(), sep=chr(10))'",
    }
