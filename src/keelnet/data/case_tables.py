"""Tables of cases: a CSV of paths."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.conventions import ALIASES, MODALITIES

_LABELS = re.compile("seg|segm|segmentation|labels?|mask")  # what the column of labels is called


def read_table(path: Path) -> tuple[list[Case], dict[str, str]]:
    """The cases of a CSV with the columns case, one for each modality, and perhaps seg; and those refused, with the reason.

    Paths are relative to it. Cells stand between commas, semicolons or tabs, whichever the first line has most of.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        table = csv.DictReader(
            io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count)
        )
        columns = _columns(path, table.fieldnames or ())
        rows = [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8: {error}") from None
    cases: list[Case] = []
    refused: dict[str, str] = {}
    for number, row in rows:
        cells = {name: (row[column] or "").strip() for name, column in columns.items()}
        if not any(cells.values()):
            continue
        name = cells.get("case") or f"line {number}"
        if reason := _wrong_in(cells):
            refused[name] = f"line {number} of {path.name} {reason}"
            continue
        files = {modality: path.parent / cells[modality] for modality in MODALITIES}
        labels = path.parent / cells["seg"] if cells.get("seg") else None
        cases.append(Case(name, files, labels, "listed"))
    return cases, refused


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
    if names and missing:
        shown = ", ".join(name.strip() for name in names[:8])
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}; wanted are case, {', '.join(MODALITIES)} and"
            f" perhaps seg, got {shown}"
        )
    return columns


def _wrong_in(cells: dict[str, str]) -> str:
    """What keeps a line of a table from being a case; empty where nothing does."""
    missing = [modality for modality in MODALITIES if not cells[modality]]
    if missing:
        return f"names no file for {', '.join(missing)}"
    paths = [cells[modality] for modality in MODALITIES]
    twice = [one for one in MODALITIES if paths.count(cells[one]) > 1]
    return f"names one file for {' and '.join(twice)}" if twice else ""
