"""Labelled cases: the files of each in the folder that keelnet segment writes, and volumes.json, which lists them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keelnet.data.case import Case

INDEX = "volumes.json"


def files_of(case: str) -> tuple[str, str]:
    """Of a case: its labels and its picture."""
    return f"{case}.nii.gz", f"{case}.png"


def listed(out: Path) -> dict[str, Any]:
    """What an earlier volumes.json says of cases whose labels are still there."""
    found = _entries(out) or {}
    return {name: about for name, about in found.items() if (out / about["file"]).is_file()}


def as_text(entries: Mapping[str, Any]) -> str:
    """volumes.json: an entry a case."""
    return json.dumps(entries, indent=2) + "\n"


def require_ours(out: Path, cases: Sequence[Case], inputs: Sequence[Path]) -> None:
    """Raise ValueError where a result would replace a file beside the scans that no volumes.json lists.

    It may be a scan or labels that no case was made of. Elsewhere --overwrite means what it says.
    """
    beside = {path.parent for case in cases for path in case.paths}
    # A Decathlon has its labels in a folder of their own, called as ours are.
    beside |= {place.with_name(place.name.replace("images", "labels")) for place in beside}
    beside |= {path for path in inputs if path.is_dir()}
    if os.path.realpath(out) not in map(os.path.realpath, beside):
        return
    ours = _entries(out)
    wanted = [name for case in cases if case.name not in (ours or {}) for name in files_of(case.name)]  # fmt: skip
    for name in [*wanted, *([INDEX] if ours is None else [])]:
        if os.path.lexists(out / name):
            raise ValueError(
                f"{out / name} lies beside the scans, was not written by keelnet segment (no {INDEX} lists it), and"
                " would be overwritten; choose another folder with --out"
            )


def _entries(out: Path) -> dict[str, Any] | None:
    """Of volumes.json, whether or not the labels are still there; None where there is none, or it is not ours."""
    try:
        found = json.loads((out / INDEX).read_text(encoding="utf-8"))
        return found if all(isinstance(each["file"], str) for each in found.values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
