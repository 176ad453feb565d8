"""keelnet segment: scans in, labels in the scans' own space out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from keelnet.data.scans import Scan, grid_of, read_scan
from keelnet.data.volumes import write_labels
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.labelled_cases import INDEX, as_text, files_of, listed, require_ours
from keelnet.experiments.millilitres import written
from keelnet.experiments.output_conventions import output_conventions
from keelnet.experiments.problems import device_named
from keelnet.experiments.runs import load_network, load_run
from keelnet.experiments.segmenting import Rules, Segmenting
from keelnet.experiments.spaces import tiling_of
from keelnet.experiments.tasks import Report
from keelnet.experiments.tumours import SPLIT


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
    if not recipe.on_scans:
        raise ValueError(f"{run} was trained on {recipe.data}, not on tumours of scans")
    place = device_named(device)
    return Segmenting(
        load_network(run, device),
        recipe.spacing,
        mirrored,
        rules or Rules(),
        tiling_of(recipe),
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


def segment(
    segmenting: Segmenting,
    inputs: Sequence[Path],
    out: Path,
    labels: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    report: Report = lambda line: None,
    left_out: list[str] | None = None,
) -> Iterator[Segmented]:
    """Label every case and write <case>.nii.gz (uint8), <case>.png and volumes.json; yields each when it is on disk.

    Labels are written in the space, order of axes and convention of the input, unless ``labels`` says another: that of
    its own labels, if it has any, or of the set that its files are named as; where that leaves it open, that of the labels
    that the network was trained on. Labels that lie there are not needed and may be broken. Headers of all scans are
    checked before the first is labelled. A bad case ends the work with ValueError, what is finished stays, also where
    it replaces old results (``overwrite``); with ``skip_bad`` it is left out, its old labels go, and ``left_out`` is
    given its name.
    """
    given = convention_named(labels) if labels is not None else None
    every = find_cases(inputs)
    found = every.for_prediction()
    report(str(found).splitlines()[0])
    for remark in found.remarks:
        report(remark)
    for name in every.scans:
        report(f"{name}: {every.refused[name]}; its scans are labelled without them")
    whole = {case.name: case for case in found.cases}
    bare = [replace(case, labels=None) for case in found.cases]  # no one's labels are needed here
    cases = checked(Found(bare, found.refused), skip_bad, report)
    if not cases:
        raise ValueError("no case is left that can be read")
    known = [whole[case.name] for case in cases]
    conventions = output_conventions(known, given, segmenting.labels, report)
    names = [files_of(case.name)[0] for case in cases]
    require_apart(out, [*names, INDEX], [*whole.values()], inputs)
    require_ours(out, known, inputs)
    left = [] if left_out is None else left_out
    left += found.refused
    with OutputFolder.claim(out, overwrite) as folder:
        entries = listed(out)
        stale = _let_go(found.refused, entries, folder, report)
        done = 0
        for case in cases:
            try:
                scan = read_scan(case, None)
                classes = segmenting.classes(scan)
            except ValueError as reason:
                if not skip_bad:
                    raise refusal(case.name, str(reason)) from None
                report(f"left out {case.name}: {reason}")
                left.append(case.name)
                stale += _let_go([case.name], entries, folder, report)
                continue
            segmented = _written(scan, classes, conventions[case.name], folder)
            entries[case.name] = _entry(segmented)
            folder.write_text(INDEX, as_text(entries))
            folder.put_in_place()
            done, stale = done + 1, 0
            yield segmented
        if not done:
            raise ValueError("no case is left that can be read")
        if stale:
            folder.write_text(INDEX, as_text(entries))


def _let_go(
    names: Iterable[str], entries: dict[str, Any], folder: OutputFolder, report: Report
) -> int:
    """How many of these cases an earlier network labelled: among the new labels theirs would pass for new."""
    stale = [name for name in names if entries.pop(name, None) is not None]
    for name in stale:
        report(f"labels of {name} from an earlier run are taken away")
        for file in files_of(name):
            folder.retire(file)
    return len(stale)


def checked(found: Found, skip_bad: bool, report: Report) -> list[Case]:
    """The cases whose headers agree; the others are refused in ``found``, or raise ValueError."""
    refused = found.refused
    for case in found.cases:
        try:
            grid_of(case)
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


def _written(
    scan: Scan, classes: NDArray[np.uint8], convention: Convention, folder: OutputFolder
) -> Segmented:
    from keelnet.experiments.overlays import planes_picture

    file, picture = files_of(scan.name)
    write_labels(folder.root / file, convention.to_file(classes), scan.geometry)
    folder.write_bytes(picture, planes_picture(scan, classes))
    voxel_ml = scan.geometry.voxel_ml
    return Segmented(
        scan.name,
        file,
        convention.name,
        {name: _ml(classes == label, voxel_ml) for label, name in enumerate(CLASS_NAMES[1:4], 1)},
        {name: _ml(np.isin(classes, parts), voxel_ml) for name, parts in REGIONS.items()},
    )


def _ml(mask: NDArray[np.bool_], voxel_ml: float) -> float:
    return written(float(mask.sum()) * voxel_ml)


def _entry(done: Segmented) -> dict[str, Any]:
    return {
        "file": done.file,
        "labels": done.convention,
        "classes_ml": done.classes_ml,
        "regions_ml": done.regions_ml,
    }
