"""Tables of cases: a CSV of paths."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from keelnet.data.case import Case, can_name_files
from keelnet.data.conventions import ALIASES, MODALITIES
from keelnet.data.file_names import edition, subject_and_kind
from keelnet.data.refusals import Refusals
from keelnet.data.volumes import stem_of

_LABELS = re.compile("seg|segm|segmentation|labels?|mask")  # what the column of labels is called
# What a column may be called that names the cases, where none is called case.
_NAMES = ("subject", "patient", "id", "name", "participant_id")
# What a column may be called that says whose scans these are.
_PATIENTS = ("patient", "patient_id", "participant_id", "subject", "subject_id")


def read_table(path: Path, refused: Refusals) -> tuple[list[Case], list[str]]:
    """The cases of a CSV with the columns case, one for each modality, and perhaps seg; and what is not read of it.

    Paths are relative to it. Cells stand between commas, semicolons or tabs, whichever the first line has most of.
    Names may stand in a column subject, patient, id, name or participant_id as well, if they are of one line each. Whose
    scans they are stands in a column patient or subject, also with _id, or participant_id. Raises ValueError for what
    is no such table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            return [], []
        first = text.partition("\n")[0]
        table = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count)
        )
        names = table.fieldnames or ()
        columns = _columns(path, names)
        rows = [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8: {error}") from None
    if "case" not in columns and (naming := _naming(names, [row for _, row in rows])):
        columns["case"] = naming
    if whose := _called(names, _PATIENTS):
        columns["patient"] = whose[0]
    found: list[tuple[int, Case]] = []
    for number, row in rows:
        cells = {name: (row[column] or "").strip() for name, column in columns.items()}
        if not any(cells.values()):
            continue
        name = cells.get("case") or f"line {number}"
        if reason := _wrong_in(cells):
            refused.add(name, _place(path, number), f"line {number} of {path.name} {reason}")
            continue
        files = {modality: path.parent / cells[modality] for modality in MODALITIES}
        labels = path.parent / cells["seg"] if cells.get("seg") else None
        case = Case(name, files, labels, _named(name, files), patient=cells.get("patient", ""))
        found.append((number, case))
    return _apart(path, found, refused), _unread(path, names, columns)


def _place(path: Path, number: int) -> str:
    return f"{path}, line {number}"


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Which column holds what; raises ValueError where two hold the same, or a modality has none."""
    columns: dict[str, str] = {}
    for name in names:
        word = name.strip().lower()
        meant = "seg" if _LABELS.fullmatch(word) else ALIASES.get(word, word)
        if meant not in ("case", "seg", *MODALITIES):
            continue
        if meant in columns:
            raise ValueError(f"{path} has two columns for {meant}: {columns[meant]} and {name}")
        columns[meant] = name
    missing = [modality for modality in MODALITIES if modality not in columns]
    if missing:
        shown = ", ".join(filter(None, map(str.strip, names[:8]))) or "an empty first line"
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}; wanted are case, {', '.join(MODALITIES)} and"
            f" perhaps seg, got {shown}"
        )
    return columns


def _naming(names: Sequence[str], rows: Sequence[Mapping[str, str | None]]) -> str:
    """The column that names the cases, where none is called case; empty if there is none.

    One in which lines are called alike, as those of a patient who was scanned twice, does not, nor one that leaves a
    line out or by whose values no file can be called.
    """
    filled = [row for row in rows if any((row[name] or "").strip() for name in names)]
    for name in _called(names, _NAMES):
        values = [(row[name] or "").strip() for row in filled]
        if values and len({*values}) == len(values) and all(map(can_name_files, values)):
            return name
    return ""


def _called(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Columns that are called by one of these words, in the order of the words."""
    return [name for word in words for name in names if name.strip().lower() == word]


def _unread(path: Path, names: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    unread = [name.strip() for name in names if name.strip() and name not in columns.values()]
    if not unread:
        return []
    shown = ", ".join(unread[:8]) + " and more" * (len(unread) > 8)
    lines = "" if "case" in columns else "; without a column case, cases are called by their lines"
    return [f"columns of {path.name} that are not read: {shown}{lines}"]


def _wrong_in(cells: dict[str, str]) -> str:
    """What keeps a line of a table from being a case; empty where nothing does."""
    missing = [modality for modality in MODALITIES if not cells[modality]]
    if missing:
        return f"names no file for {', '.join(missing)}"
    paths = [cells[modality] for modality in MODALITIES]
    twice = [one for one in MODALITIES if paths.count(cells[one]) > 1]
    return f"names one file for {' and '.join(twice)}" if twice else ""


def _named(name: str, files: Mapping[str, Path]) -> str:
    """How the files are named, see `conventions.convention_of`; "listed" where one of them does not tell its modality."""
    words: set[str] = set()
    subjects = [name]
    for modality, path in files.items():
        told = subject_and_kind(stem_of(path))
        if told is None or ALIASES[told[1]] != modality:
            return "listed"
        subjects.append(told[0] or path.parent.name)
        words.add(told[1])
    return edition(subjects, words)


def _apart(path: Path, found: Sequence[tuple[int, Case]], refused: Refusals) -> list[Case]:
    """Cases with names of their own: a line that stands twice counts once, two cases of one name are refused."""
    alike: dict[str, list[tuple[int, Case]]] = {}
    for number, case in found:
        alike.setdefault(case.name, []).append((number, case))
    kept: list[Case] = []
    for name, lines in alike.items():
        if all(case == lines[0][1] for _, case in lines):
            kept.append(lines[0][1])
            continue
        reason = (
            f"two cases are called {name}, in lines {lines[0][0]} and {lines[1][0]} of {path.name}; give each a name of"
            " its own in the column case"
        )
        for number, _ in lines:
            refused.add(name, _place(path, number), reason)
    return kept
