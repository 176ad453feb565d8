"""Output conventions: what the values mean that the labels of a segmented case are written in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keelnet.data.case import Case
from keelnet.data.cases import Found
from keelnet.data.conventions import CLASS_NAMES, CONVENTIONS, Convention
from keelnet.data.scans import LOOKED_AT, read_labels, settle
from keelnet.experiments.tasks import Report

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
_SAY = "say otherwise with --labels"


def output_conventions(
    cases: Sequence[Case], given: Convention | None, trained: str | None, report: Report
) -> dict[str, Convention]:
    """By case: ``given``, or that of the labels beside the scans, or what the names of the files say.

    ``trained``, the convention of the network's labels, decides where names leave it open, and where the labels
    contradict the names and have its values. What was decided so is said, and so are names of a set whose labels have other
    values than those trained on.
    """
    if given is not None:
        return {case.name: given for case in cases}
    told = {
        names: _told(names, [case for case in cases if _named(case) == names], trained, report)
        for names in dict.fromkeys(map(_named, cases))
    }
    return {case.name: told[_named(case)] for case in cases}


def _named(case: Case) -> str:
    """As `conventions.convention_of` has it: how the files are named, or the convention that a dataset.json tells of."""
    return case.means or case.names


def _told(names: str, cases: list[Case], trained: str | None, report: Report) -> Convention:
    by_names, own = CONVENTIONS[_BY_NAMES.get(names, names)], CONVENTIONS.get(trained or "")
    unclear = ""
    try:
        found = settle(Found(cases)).convention
    except ValueError as error:
        found, unclear = None, str(error)
    if found is not None:
        return found
    if not unclear and names not in _OPEN:
        if own is not None and _values(own) != _values(by_names):
            told = "a dataset.json tells of" if cases[0].means else "files are named as in"
            report(
                f"{cases[0].name}: {told} {by_names.title}; written as {by_names.name}, though the network was trained"
                f" on {own.name}; {_SAY}"
            )
        return by_names
    unclear = unclear or f"what labels of {cases[0].name} mean is left open by names"
    if own is not None and own.name in _OPEN.get(names, CONVENTIONS) and _fits(cases, own):
        report(f"{unclear}; written as {own.name}, as those that the network was trained on")
        return own
    report(f"{unclear}; written as {by_names.name}, {_SAY}")
    return by_names


def _values(convention: Convention) -> list[int]:
    """In which it writes the classes that a network finds."""
    found = np.arange(len(CLASS_NAMES) - 1, dtype=np.uint8)  # no cavity
    return [int(value) for value in convention.to_file(found)]


def _fits(cases: Sequence[Case], convention: Convention) -> bool:
    """Whether the labels that lie there, or most of them, have only values of the convention."""
    files = [case.labels for case in cases if case.labels is not None]
    votes = 0
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        try:
            labels = read_labels(path)
        except ValueError:  # they are not needed to label the scans
            continue
        try:
            convention.from_file(labels)
            votes += 1
        except ValueError:
            votes -= 1
    return votes >= 0
