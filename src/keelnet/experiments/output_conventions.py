"""Output conventions: what the values mean that the labels of a segmented case are written in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

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
    named = _named(cases)
    told = {
        names: _told(names, [case for case in cases if named[case.name] == names], trained, report)
        for names in dict.fromkeys(named.values())
    }
    return {case.name: told[named[case.name]] for case in cases}


def _named(cases: Sequence[Case]) -> dict[str, str]:
    """As `scans.settle` has it: how the files are named, or the convention that a dataset.json tells of.

    Files whose names say nothing are of the one kind that others beside them are of.
    """
    named = {case.name: case.means or case.names for case in cases}
    others = {*named.values()} - {"listed"}
    return dict.fromkeys(named, next(iter(others))) if len(others) == 1 else named


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
    values = _values_in(cases)
    free = names in _OPEN or not _fits(by_names, values)
    if own is not None and free and own.name in _OPEN.get(names, CONVENTIONS) and _fits(own, values):  # fmt: skip
        report(f"{unclear}; written as {own.name}, as those that the network was trained on")
        return own
    possible = (by_names, *(CONVENTIONS[name] for name in _OPEN.get(names, ())))
    written = next((each for each in possible if _fits(each, values)), by_names)
    report(f"{unclear}; written as {written.name}, {_SAY}")
    return written


def _values(convention: Convention) -> list[int]:
    """In which it writes the classes that a network finds."""
    found = np.arange(len(CLASS_NAMES) - 1, dtype=np.uint8)  # no cavity
    return [int(value) for value in convention.to_file(found)]


def _values_in(cases: Sequence[Case]) -> list[NDArray[np.float32]]:
    """Of the labels that lie there, or some of them: the values of each file that can be read."""
    files = [case.labels for case in cases if case.labels is not None]
    found = []
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        with suppress(ValueError):  # they are not needed to label the scans
            found.append(np.unique(read_labels(path)))
    return found


def _fits(convention: Convention, values: Sequence[NDArray[np.float32]]) -> bool:
    """Whether most files have only values of the convention, or as many as not."""
    votes = 0
    for each in values:
        try:
            convention.from_file(each)
            votes += 1
        except ValueError:
            votes -= 1
    return votes >= 0
