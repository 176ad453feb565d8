"""The source paper's Fig. 2 and 3 as one folder: numbers, verdicts and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keelnet.experiments.figures import save, seed_figures
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.provenance import versions
from keelnet.experiments.seed import (
    FEATURES,
    LONG_DEPTH,
    READINGS,
    VERLET_KERNEL,
    Trajectory,
    experiments,
    run_all,
)
from keelnet.experiments.verdicts import Verdict, verdicts

RESULTS = "results.json"


@dataclass(frozen=True)
class Reproduction:
    """What was computed (trajectories by experiment), what it says of the claims, what was written."""

    results: Mapping[str, Trajectory]
    verdicts: tuple[Verdict, ...]
    files: tuple[Path, ...]


def reproduce(out: Path, overwrite: bool = False) -> Reproduction:
    """Compute all experiments of the source, judge its claims, write numbers and pictures to ``out``.

    ``out`` gets ``results.json`` and each figure as PNG and SVG, all of them or none. Raises
    ValueError for a folder that is not empty (unless ``overwrite``, which replaces the files of
    these names and leaves others alone) and for one that cannot be written to.
    """
    with OutputFolder.claim(Path(out), overwrite, whole=True) as folder:
        trajectories = run_all()
        judged = verdicts(trajectories)
        names = _written(folder, trajectories, judged)
    return Reproduction(trajectories, judged, tuple(folder.path / name for name in names))


def record(trajectories: Mapping[str, Trajectory], judged: Sequence[Verdict]) -> dict[str, Any]:
    """The content of ``results.json``: names with slashes become nested tables.

    Of the Verlet runs "verlet" holds the last y and z, and "verlet_paths" every layer of the
    deepest; the layers are identical, so the shallower runs are its beginnings.
    """
    table: dict[str, Any] = {
        "convention": "rows: Y + h f(Y K + u), tanh, h = 0.1, u = 0; float64",
        "y0": FEATURES,
        "verlet_kernel_rows_are_y_components": VERLET_KERNEL,
    }
    for name, trajectory in trajectories.items():
        group, run, *reading = name.split("/")
        if not reading:
            table.setdefault(group, {})[run] = trajectory.y.tolist()
            continue
        last = {key: part[-1].tolist() for key, part in _parts(reading[0], trajectory)}
        table.setdefault(group, {}).setdefault(run, {}).update(last)
        if run.startswith(f"N{LONG_DEPTH}_"):
            paths = {key: part.tolist() for key, part in _parts(reading[0], trajectory)}
            table.setdefault("verlet_paths", {}).setdefault(run, {}).update(paths)
    table["verdicts"] = [asdict(verdict) | {"holds": verdict.holds} for verdict in judged]
    table["settings"] = {name: experiment.settings() for name, experiment in experiments().items()}
    return table | {"versions": versions()}


def _parts(reading: str, trajectory: Trajectory) -> tuple[tuple[str, Any], tuple[str, Any]]:
    assert trajectory.z is not None
    return (reading, trajectory.y), (READINGS[reading], trajectory.z)


def _written(
    folder: OutputFolder, trajectories: Mapping[str, Trajectory], judged: Sequence[Verdict]
) -> list[str]:
    """The names of the files: the pictures and the numbers."""
    names = [
        file.name
        for name, figure in seed_figures(trajectories).items()
        for file in save(figure, folder.root / name)
    ]
    text = json.dumps(record(trajectories, judged), ensure_ascii=False, allow_nan=False)
    folder.write_text(RESULTS, text + "\n")
    return [*names, RESULTS]
