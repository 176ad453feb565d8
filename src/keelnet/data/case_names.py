"""Names of cases: what is made of a case is called by its name, so no two bear one."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.patients import SESSION
from keelnet.data.refusals import Refusals

_SESSION = re.compile(SESSION, re.IGNORECASE)


def with_own_names(cases: Sequence[Case], refused: Refusals) -> list[Case]:
    """Cases that are named by one name each; what was found twice counts once.

    Cases that only their folders name, as p1/ses-1 and p2/ses-1, are called by more of their path where the folders
    are called alike: p1_ses-1, p2_ses-1. Others of one name are refused, each.
    """
    found = _told_apart(_once(cases))
    alike: dict[str, list[Case]] = {}
    for case in found:
        alike.setdefault(case.name, []).append(case)
    for name, group in alike.items():
        for case in group if len(group) > 1 else ():
            other = next(each for each in group if each is not case)
            reason = (
                f"two cases are called {name}, here and at {other.first}; give each a name of its own in the column case"
                " of a CSV of paths, or read one of their folders at a time"
            )
            refused.add(name, case.first.parent, reason)
    return [case for case in found if len(alike[case.name]) == 1]


def _once(cases: Sequence[Case]) -> list[Case]:
    """Without those that are another one again: the same files by the same name."""
    count = Counter(case.name for case in cases)
    known: set[tuple[str, ...]] = set()
    found: list[Case] = []
    for case in cases:
        if count[case.name] > 1:
            same = case.name, *(os.path.realpath(path) for path in case.paths)
            if same in known:
                continue
            known.add(same)
        found.append(case)
    return found


def _told_apart(cases: Sequence[Case]) -> list[Case]:
    """Cases that bear the names of their folders with as much of the path as keeps them apart.

    Sessions are named with their patient where there are several of one, also beside others that need it: scans of a
    patient stay together where a set is split.
    """
    count = Counter(case.name for case in cases)
    folders = Counter(_folder(case) for case in cases if case.bare)
    bare = [case for case in cases if case.bare and folders[_folder(case)] == 1]
    sessions = Counter(_folder(case).parent for case in bare if _SESSION.match(case.name))
    above = {_folder(case).parent for case in bare if count[case.name] > 1}
    above |= {patient for patient, scans in sessions.items() if scans > 1}
    renamed = {
        id(case): _folder(case)
        for case in bare
        if count[case.name] > 1 or (_SESSION.match(case.name) and _folder(case).parent in above)
    }
    taken = {case.name for case in cases if id(case) not in renamed}
    for length in range(2, 1 + max((len(folder.parts) for folder in renamed.values()), default=0)):
        names = {key: "_".join(folder.parts[1:][-length:]) for key, folder in renamed.items()}
        told = {*names.values()}
        if len(told) == len(names) and not told & taken and not any(map(_SESSION.match, told)):
            return [replace(case, name=names.get(id(case), case.name)) for case in cases]
    return list(cases)


def _folder(case: Case) -> Path:
    """By its own name, where it is a link."""
    return Path(os.path.abspath(case.first.parent))
