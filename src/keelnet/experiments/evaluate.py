"""keelnet evaluate: a trained network against the labels of a folder of scans, case by case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from keelnet.analysis.regions import region_scores
from keelnet.analysis.uncertainty import Sensitivity, entropy, sensitivity
from keelnet.data.case import Case
from keelnet.data.cases import Found, find_cases
from keelnet.data.conventions import Convention, convention_named
from keelnet.data.grids import turn_between, turned
from keelnet.data.patients import patient_of
from keelnet.data.prepared import content_of, ready
from keelnet.data.scans import Scan, read_scan, settle
from keelnet.data.volumes import read_geometry, read_voxels, write_map
from keelnet.experiments.evaluated import Evaluated
from keelnet.experiments.evaluation_tables import as_table, cases_of, summary_of
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.segment import checked, refusal, require_apart
from keelnet.experiments.segmenting import Segmenting
from keelnet.experiments.tasks import Report
from keelnet.experiments.tiles import Tiles

NOTHING_NEW = "their scores say nothing of new ones"
PATCH = 48  # voxels a side of what the sensitivity is taken on, where the tumour is


def evaluate(
    segmenting: Segmenting,
    run: str,
    inputs: Sequence[Path],
    out: Path,
    labels: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    maps: bool = False,
    report: Report = lambda line: None,
    split: Path | None = None,
) -> Iterator[Evaluated]:
    """Score every labelled case; yields each as it is done.

    Written to ``out``, at the end and together: cases.csv (a row a case and region), summary.json, report.html, a
    picture of each case in cases/, and with ``maps`` its entropy as NIfTI in the scan's own space. With ``overwrite``
    pictures and maps of the cases in the old cases.csv go. A bad case
    ends the work with ValueError; with ``skip_bad`` it is left out. Headers of all cases are checked before the first is
    scored. ``run`` is named in the report, ``split`` is its split.json, by which cases that it was trained on are told:
    by file and patient (`trained_on`), and wherever they lie by what they hold (`contents_trained_on`).
    """
    found = settle(find_cases(inputs), convention_named(labels) if labels is not None else None)
    for line in str(found).splitlines():
        report(line)
    labelled = [case for case in found.cases if case.labels is not None]
    cases = checked(Found(labelled, found.refused), skip_bad, report)
    if not labelled:
        raise ValueError(
            "no case has labels to compare with; keelnet segment labels scans without them"
        )
    if not cases:
        raise ValueError("no case is left that can be read")
    if unlabelled := len(found.cases) - len(labelled):
        report(f"{unlabelled} cases without labels are left out")
    seen, contents = trained_on(split, cases, inputs, report), contents_trained_on(split)
    if seen:
        report(f"{len(seen)} of {len(cases)} cases were trained on: {NOTHING_NEW}")
    require_apart(out, ("cases.csv", "summary.json", "report.html"), cases, inputs)
    with OutputFolder.claim(out, overwrite, whole=True) as folder:
        done: list[Evaluated] = []
        for case in cases:
            scored = _scored(
                segmenting, case, found.convention, skip_bad, found.refused, folder, maps, contents
            )
            if scored is None:
                report(f"left out {case.name}: {found.refused[case.name]}")
                continue
            done.append(replace(scored, trained_on=scored.trained_on or case.name in seen))
            yield done[-1]
        if not done:
            raise ValueError("no case is left that can be read")
        copies = [each.name for each in done if each.trained_on and each.name not in seen]
        if copies:
            report(f"{len(copies)} cases are copies of some that were trained on: {NOTHING_NEW}")
        for name in cases_of(out / "cases.csv"):
            for old in files_of(name):
                folder.retire(old)
        _write(folder, run, done, found.refused)


def files_of(case: str) -> tuple[str, str]:
    """Of a case: its picture, and its entropy map, which not every evaluation makes."""
    return f"cases/{case}.png", f"cases/{case}-entropy.nii.gz"


def _scored(
    segmenting: Segmenting,
    case: Case,
    convention: Convention | None,
    skip_bad: bool,
    refused: dict[str, str],
    folder: OutputFolder,
    maps: bool,
    contents: set[str],
) -> Evaluated | None:
    # Late, as Matplotlib is: what is wrong with the input is said at once.
    from keelnet.experiments.evaluation_pictures import case_picture

    try:
        scan = read_scan(case, convention)
        mimics = mimics_of(case, scan)
        logits = segmenting.logits(scan)
    except ValueError as error:
        if not skip_bad:
            raise refusal(case.name, str(error)) from None
        refused[case.name] = str(error)
        return None
    assert scan.classes is not None
    classes = segmenting.decided(scan, logits)
    doubt = entropy(logits)
    brain = (scan.x != 0).any(0)
    geometry = scan.geometry
    scores = region_scores(classes, scan.classes, geometry.spacing, geometry.voxel_ml)
    picture, map_ = files_of(case.name)
    folder.write_bytes(picture, case_picture(scan, classes, doubt))
    if maps:
        write_map(folder.root / map_, doubt, geometry)
    on_mimics = None if mimics is None else float((mimics & (classes > 0)).sum())
    return Evaluated(
        case.name,
        scores,
        float(doubt[brain].mean()),
        sensitivity_of(segmenting, scan, classes),
        None if on_mimics is None else on_mimics * geometry.voxel_ml,
        bool(contents) and content_of(scan) in contents,
    )


def trained_on(
    split: Path | None,
    cases: Sequence[Case],
    inputs: Sequence[Path],
    report: Report = lambda line: None,
) -> set[str]:
    """Names of the cases that a run has seen by its split.json: the same files, or in the same place the same patients.

    None where it does not say what was trained on, which is reported. Copies are told by `contents_trained_on`.
    """
    if split is None or not split.is_file():
        return set()
    about = json.loads(split.read_text(encoding="utf-8"))
    if not {"training", "folder"} <= about.keys():
        report(f"{split} does not say which cases were trained on, so none is marked as such")
        return set()
    # Whose scans they are may be told by a table here and by names there, so that each is compared with its own kind.
    told = {*about.get("patients", {}).values()}  # which runs of earlier versions do not say
    named = {*map(patient_of, about["training"])}
    files = {*about.get("files", {}).values()}  # which runs of earlier versions do not name
    folders = _places(Path(about["folder"]))
    listed = any(folders & _places(path) for path in inputs)

    def seen(case: Case) -> bool:
        if os.path.realpath(case.first) in files:
            return True
        here = listed or any(folders & {*place.parents} for place in _places(case.first))
        return here and (case.whose in told or patient_of(case.name) in named)

    return {case.name for case in cases if seen(case)}


def contents_trained_on(split: Path | None) -> set[str]:
    """`content_of` the cases that a run has seen by its split.json, so that copies of them are known.

    Runs of earlier versions do not say it.
    """
    if split is None or not split.is_file():
        return set()
    about = json.loads(split.read_text(encoding="utf-8"))
    known = about.get("content", {})
    return {known[name] for name in about.get("training", ()) if known.get(name)}


def _places(path: Path) -> set[Path]:
    """By its own name and by that of what it is a link to."""
    return {Path(os.path.abspath(path)), path.resolve()}


def mimics_of(case: Case, scan: Scan) -> NDArray[np.bool_] | None:
    """Where the case's look-alikes are, which synthetic sets mark in a file of their own."""
    assert case.labels is not None
    if case.labels.parent.name.startswith("labels"):
        path = case.labels.parent.with_name("mimicsTr") / case.labels.name
    else:
        path = case.labels.with_name(case.labels.name.replace("seg.nii", "mimics.nii"))
    if path == case.labels or not path.is_file():
        return None
    own, shape = read_geometry(path)
    if len(shape) != 3:
        raise ValueError(f"{path.name} holds {shape[3]} volumes, one is wanted")
    turn = turn_between(case.first, scan.geometry, path, own)
    return scan.geometry.towards(turned(read_voxels(path) > 0.5, turn)).astype(np.bool_)


def sensitivity_of(segmenting: Segmenting, scan: Scan, classes: NDArray[np.uint8]) -> Sensitivity:
    """On a patch around the predicted tumour (or the middle of the brain), on the network's own voxels."""
    x, box = ready(scan, segmenting.spacing)
    inside = classes[box]
    marked = np.argwhere(inside > 0)
    middle = marked.mean(0) if len(marked) else np.array(inside.shape) / 2
    share = np.array(x.shape[1:]) / np.array(inside.shape)
    side = -(-PATCH // segmenting.tiling.unit) * segmenting.tiling.unit
    start = [
        int(min(max(0, place - side / 2), max(0, length - side)))
        for place, length in zip(middle * share, x.shape[1:], strict=True)
    ]
    labelled = tuple(
        slice(begin, min(begin + side, length))
        for begin, length in zip(start, x.shape[1:], strict=True)
    )
    whole = tuple(slice(0, cut.stop - cut.start) for cut in labelled)
    patch = Tiles((side,) * 3, margin=0).cut(x, labelled, whole)
    return sensitivity(segmenting.network, torch.from_numpy(patch)[None].to(segmenting.device))


def _write(
    folder: OutputFolder, run: str, done: Sequence[Evaluated], refused: dict[str, str]
) -> None:
    # Late, as Matplotlib is.
    from keelnet.experiments.evaluation_report import evaluation_report

    summary = summary_of(done, refused)
    folder.write_text("cases.csv", as_table(done))
    folder.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
    pictures = {
        each.name: (folder.root / files_of(each.name)[0]).read_bytes() for each in chosen(done)
    }
    folder.write_text("report.html", evaluation_report(run, done, summary, pictures))


def chosen(done: Sequence[Evaluated]) -> list[Evaluated]:
    """The worst, the median and the best case by mean Dice; fewer where there are fewer cases."""
    ranked = sorted(done, key=lambda each: each.mean_dice)
    places = sorted({0, len(ranked) // 2, len(ranked) - 1})
    return [ranked[place] for place in places]
