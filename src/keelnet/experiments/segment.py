"""keelnet segment: scans in, labels in the scans' own space out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keelnet.data.case import Case
from keelnet.data.cases import Found, find_cases
from keelnet.data.conventions import (
    CLASS_NAMES,
    CONVENTIONS,
    REGIONS,
    Convention,
    convention_named,
)
from keelnet.data.scans import Scan, common_geometry, read_scan, settle
from keelnet.data.volumes import write_labels
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.problems import device_named
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.runs import load_network, load_run
from keelnet.experiments.segmenting import Rules, Segmenting
from keelnet.experiments.tasks import Report
from keelnet.experiments.tiles import Tiling
from keelnet.experiments.tumours import SPLIT

# What labels are written as where only the names of files speak: 1, 2 and 3 mean the same in 2023 and 2024, but for
# children, of whose sets the one is taken in which they mean what they do in the others.
_BY_NAMES = {
    "old": "brats2021",
    "new": "brats2023",
    "children": "brats2023",
    "msd": "msd",
    "listed": "brats2023",
}
# Where names leave open what labels mean, and what they may.
_OPEN = {"listed": (*CONVENTIONS,), "children": ("brats2023", "peds2024")}


@dataclass(frozen=True)
class Segmented:
    """One finished case: its file, the convention of the labels in it, and ml by class and by region."""

    name: str
    file: str
    convention: str
    classes_ml: dict[str, float]
    regions_ml: dict[str, float]


def segmenting_of(
    run: Path, mirrored: bool = False, rules: Rules | None = None, device: str = "cpu"
) -> Segmenting:
    """The trained network of a run on scans; raises ValueError where it is none."""
    recipe = load_run(run).recipe
    if recipe.data != "tumour":
        raise ValueError(f"{run} was trained on {recipe.data}, not on tumours of scans")
    place = device_named(device)
    return Segmenting(
        load_network(run, device),
        recipe.spacing,
        mirrored,
        rules or Rules(),
        Tiling(unit=max(8, unit_of(recipe))),
        place,
        _labels_of(run),
    )


def _labels_of(run: Path) -> str | None:
    """The convention that the run was trained in; None where it does not say, as runs of earlier versions."""
    if not (run / SPLIT).is_file():
        return None
    try:
        labels = json.loads((run / SPLIT).read_text(encoding="utf-8")).get("labels")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{run / SPLIT} cannot be read ({error}); restore it, or train anew"
        ) from None
    return labels if labels in CONVENTIONS else None


def unit_of(recipe: Recipe) -> int:
    """What the recipe's network needs the sides of a space to be divisible by."""
    levels = 1 if isinstance(recipe.width, int) else len(recipe.width)
    return int(2 ** (levels - 1 + recipe.folds))


def segment(
    segmenting: Segmenting,
    inputs: Sequence[Path],
    out: Path,
    labels: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    report: Report = lambda line: None,
) -> Iterator[Segmented]:
    """Label every case and write <case>.nii.gz (uint8), <case>.png and volumes.json; yields each when it is on disk.

    Labels are written in the space, order of axes and convention of the input, which follows from the names of
    its files unless ``labels`` says it; where they leave it open, from its labels, if it has any, or from those that
    the network was trained on. Headers of all cases are checked before the first is labelled. A bad case
    ends the work with ValueError, what is finished stays; with ``skip_bad`` it is left out.
    """
    given = convention_named(labels) if labels is not None else None
    found = find_cases(inputs)
    report(str(found).splitlines()[0])
    cases = checked(found, skip_bad, report)
    if not cases:
        raise ValueError("no case is left that can be read")
    conventions = _conventions(cases, given, segmenting.labels, report)
    require_apart(out, [*(f"{case.name}.nii.gz" for case in cases), "volumes.json"], cases, inputs)
    done: list[Segmented] = []
    kept = _kept_volumes(out)
    with OutputFolder.claim(out, overwrite) as folder:
        for case in cases:
            try:
                scan = read_scan(case, None)
                classes = segmenting.classes(scan)
            except ValueError as reason:
                if not skip_bad:
                    raise refusal(case.name, str(reason)) from None
                report(f"left out {case.name}: {reason}")
                continue
            done.append(_written(scan, classes, conventions[case.name], folder))
            folder.write_text("volumes.json", json.dumps(kept | _volumes(done), indent=2) + "\n")
            yield done[-1]
        if not done:
            raise ValueError("no case is left that can be read")


def checked(found: Found, skip_bad: bool, report: Report) -> list[Case]:
    """The cases whose headers agree; the others are refused in ``found``, or raise ValueError."""
    refused = found.refused
    for case in found.cases:
        try:
            common_geometry(case)
        except ValueError as error:
            refused[case.name] = str(error)
    if refused and not skip_bad:
        name, reason = next(iter(refused.items()))
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise refusal(name, f"{reason}{more}")
    for name, reason in refused.items():
        report(f"left out {name}: {reason}")
    return [case for case in found.cases if case.name not in refused]


def refusal(case: str, reason: str) -> ValueError:
    """What ends the work at a bad case."""
    return ValueError(f"case {case}: {reason}; --skip-bad goes on without")


def require_apart(
    out: Path, names: Sequence[str], cases: Sequence[Case], inputs: Sequence[Path]
) -> None:
    """Raise ValueError where a result would replace what it is made from, which no --overwrite means."""
    read = {os.path.realpath(path) for case in cases for path in case.paths}
    read |= {os.path.realpath(path) for path in inputs}
    for name in names:
        if os.path.realpath(out / name) in read:
            raise ValueError(
                f"{out / name} is an input, and would be overwritten; choose another folder with --out"
            )


def _conventions(
    cases: Sequence[Case], given: Convention | None, trained: str | None, report: Report
) -> dict[str, Convention]:
    """As each case's files are named; where that leaves it open, as its labels are or those trained on, and it is said."""
    by_names = {names: CONVENTIONS[name] for names, name in _BY_NAMES.items()}
    for names, possible in _OPEN.items():
        alike = Found([case for case in cases if case.names == names])
        if given is not None or not alike.cases:
            continue
        unclear = f"what labels of {alike.cases[0].name} mean is left open by names"
        try:
            told = settle(alike).convention
        except ValueError as error:
            told, unclear = None, str(error)
        if told is None:
            told, why = by_names[names], "say otherwise with --labels"
            if trained is not None and trained in possible:
                told, why = CONVENTIONS[trained], "as those that the network was trained on"
            report(f"{unclear}; written as {told.name}, {why}")
        by_names[names] = told
    return {case.name: given or by_names[case.names] for case in cases}


def _written(
    scan: Scan, classes: NDArray[np.uint8], convention: Convention, folder: OutputFolder
) -> Segmented:
    from keelnet.experiments.overlays import planes_picture

    write_labels(folder.root / f"{scan.name}.nii.gz", convention.to_file(classes), scan.geometry)
    folder.write_bytes(f"{scan.name}.png", planes_picture(scan, classes))
    voxel_ml = scan.geometry.voxel_ml
    return Segmented(
        scan.name,
        f"{scan.name}.nii.gz",
        convention.name,
        {name: _ml(classes == label, voxel_ml) for label, name in enumerate(CLASS_NAMES[1:4], 1)},
        {name: _ml(np.isin(classes, parts), voxel_ml) for name, parts in REGIONS.items()},
    )


def _ml(mask: NDArray[np.bool_], voxel_ml: float) -> float:
    return round(float(mask.sum()) * voxel_ml, 3)


def _kept_volumes(out: Path) -> dict[str, Any]:
    """What an earlier volumes.json says of cases whose labels are still there."""
    try:
        old = json.loads((out / "volumes.json").read_text(encoding="utf-8"))
        return {name: about for name, about in old.items() if (out / about["file"]).is_file()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not ours
        return {}


def _volumes(done: Sequence[Segmented]) -> dict[str, Any]:
    return {
        each.name: {
            "file": each.file,
            "labels": each.convention,
            "classes_ml": each.classes_ml,
            "regions_ml": each.regions_ml,
        }
        for each in done
    }
