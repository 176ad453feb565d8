"""Cases: the files of each subject, found in a folder, a table of paths, or named one by one."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keelnet.data.conventions import ALIASES, MODALITIES, Convention
from keelnet.data.volumes import is_volume, read_geometry, stem_of

# <subject>_t1ce, <subject>-t1c, <subject>_seg …: a separator, then the last word.
_NAMED = re.compile(r"^(?P<subject>.*?)[-_.]?(?P<kind>[A-Za-z0-9]+)$")
_SEGMENTATION = re.compile(r"(^|[-_.])(seg|segm|segmentation|label|labels|mask)$", re.IGNORECASE)
# What is made of a case is called by its name, in the folder that the user chose.
_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*")
_NEW = ("t1n", "t1c", "t2w", "t2f")


@dataclass(frozen=True)
class Case:
    """One subject: a file for each modality, or one file of four volumes; perhaps its labels.

    ``names`` says how the files are named, see `conventions.convention_of`. ``order`` are the
    modalities of a file of four volumes.
    """

    name: str
    files: dict[str, Path]
    labels: Path | None
    names: str
    order: tuple[str, ...] = ()

    @property
    def first(self) -> Path:
        """A file whose space is that of the case."""
        return next(iter(self.files.values()))

    @property
    def paths(self) -> list[Path]:
        """Every file of the case, labels last."""
        return [*self.files.values(), *([self.labels] if self.labels else [])]

    @property
    def stacked(self) -> bool:
        """Whether one file holds all modalities."""
        return bool(self.order)


@dataclass
class Found:
    """Cases in the order of their names, those refused with the reason, and what was recognised."""

    cases: list[Case] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    layout: str = ""
    convention: Convention | None = None
    reason: str = ""

    def __str__(self) -> str:
        count = len(self.cases)
        lines = [f"{count} case{'s' * (count != 1)}: {self.layout}"]
        if self.convention is not None:
            lines.append(f"labels: {self.convention.title} ({self.reason})")
        lines += [f"refused {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def find_cases(inputs: Sequence[Path]) -> Found:
    """The cases in a folder (searched through), a single case's folder or files, or a CSV of paths.

    Raises ValueError where there is none, and where two cases bear one name.
    """
    found = Found()
    layouts: list[str] = []
    loose: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        if path.is_dir():
            layouts.append(_in_folder(path, found))
        elif path.suffix.lower() == ".csv":
            layouts.append(_in_table(path, found))
        elif is_volume(path):
            loose.append(path)
        else:
            raise ValueError(f"{path} is neither a folder, a CSV of paths, nor a NIfTI file")
    if loose:
        layouts.append(_grouped(loose, found))
    if not found.cases and not found.refused:
        shown = ", ".join(map(str, inputs))
        raise ValueError(
            f"no case in {shown}: wanted are NIfTI files named like <case>_t1ce.nii.gz or <case>-t1c.nii.gz,"
            " imagesTr/<case>.nii.gz with four volumes each, or a CSV with the columns case, "
            + ", ".join(MODALITIES)
        )
    for case in list(found.cases):
        if not _NAME.fullmatch(case.name):
            found.cases.remove(case)
            found.refused[case.name] = (
                "no file can be called so: a case's name starts with no dot and holds no slash and no line break"
            )
    _require_own_names(found.cases)
    found.cases.sort(key=lambda case: case.name)
    found.layout = "; ".join(dict.fromkeys(layouts))
    return found


def _require_own_names(cases: Iterable[Case]) -> None:
    seen: dict[str, Path] = {}
    for case in cases:
        if case.name in seen:
            raise ValueError(
                f"two cases are called {case.name}: {seen[case.name]} and {case.first}"
            )
        seen[case.name] = case.first


def _in_folder(folder: Path, found: Found) -> str:
    for root in (folder, folder / "imagesTr"):
        if root.name in ("imagesTr", "imagesTs") and root.is_dir():
            return _decathlon(root, found)
    return _grouped(sorted(_volumes_in(folder, found)), found)


def _volumes_in(folder: Path, found: Found) -> Iterator[Path]:
    """Every volume below a folder, through links as well; a link that leads back is gone through once."""

    def refuse(error: OSError) -> None:
        found.refused[Path(error.filename).name] = (
            f"{error.filename} cannot be read ({error.strerror})"
        )

    seen: set[Path] = set()
    for root, inner, names in os.walk(folder, onerror=refuse, followlinks=True):
        place = Path(root).resolve()
        if place in seen:
            inner.clear()
            continue
        seen.add(place)
        yield from (
            path
            for path in (Path(root) / name for name in names)
            if is_volume(path) and path.is_file()
        )


def _decathlon(images: Path, found: Found) -> str:
    """imagesTr with four volumes a file, labelsTr beside it."""
    folder, order = images.parent, _order(images.parent)
    for path in sorted(filter(is_volume, images.iterdir())):
        labels = folder / images.name.replace("images", "labels") / path.name
        name = stem_of(path)
        found.cases.append(
            Case(name, {"all": path}, labels if labels.is_file() else None, "msd", order)
        )
    return f"Decathlon, four volumes a file ({', '.join(order)})"


def _order(folder: Path) -> tuple[str, ...]:
    """The modalities of a file of four volumes: by dataset.json where there is one."""
    path = folder / "dataset.json"
    if not path.is_file():
        return "flair", "t1", "t1ce", "t2"
    try:
        table = json.loads(path.read_text())["modality"]
        named = [str(table[key]) for key in sorted(table, key=int)]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"{path} does not list its modalities ({type(error).__name__}: {error})"
        ) from None
    order = tuple(ALIASES.get(name.lower(), "") for name in named)
    if sorted(order) != sorted(MODALITIES):
        raise ValueError(
            f"{path} lists the modalities {', '.join(named)}; {', '.join(MODALITIES)} are wanted"
        )
    return order


def _grouped(files: Sequence[Path], found: Found) -> str:
    """Files of one folder that share the name before their last word are a case."""
    groups: dict[tuple[Path, str], dict[str, Path]] = {}
    spellings: dict[tuple[Path, str], set[str]] = {}
    segmentations: dict[tuple[Path, str], list[Path]] = {}
    odd: dict[Path, list[Path]] = {}
    for path in files:
        stem = stem_of(path)
        match = _NAMED.match(stem)
        kind = match["kind"].lower() if match else ""
        if match and kind in ALIASES:
            key = path.parent, match["subject"].rstrip("-_.")
            _add(groups.setdefault(key, {}), ALIASES[kind], path, found, key[1])
            spellings.setdefault(key, set()).add(kind)
        elif marked := _SEGMENTATION.search(stem):
            key = path.parent, stem[: marked.start()].rstrip("-_.")
            segmentations.setdefault(key, []).append(path)
            odd.setdefault(path.parent, []).append(path)
        else:
            _stacked(path, found)
    for (folder, subject), paths in groups.items():
        name = subject or folder.name
        missing = [each for each in MODALITIES if each not in paths]
        if name in found.refused:
            continue
        if missing:
            found.refused[name] = f"{', '.join(missing)} missing in {folder}"
            continue
        labels = segmentations.get((folder, subject), [])
        alone = [key for key in groups if key[0] == folder]
        # One mask of the 2020 set bears the name of another study.
        if not labels and len(alone) == 1 and len(odd.get(folder, [])) == 1:
            labels = odd[folder]
        if len(labels) > 1:
            found.refused[name] = f"two files of labels: {labels[0].name} and {labels[1].name}"
            continue
        names = "new" if spellings[folder, subject] <= {*_NEW} else "old"
        own = {modality: paths[modality] for modality in MODALITIES}
        found.cases.append(Case(name, own, labels[0] if labels else None, names))
    return "a file for each modality"


def _stacked(path: Path, found: Found) -> None:
    """A file of four volumes beside nothing is a case of its own; other files are none of ours."""
    try:
        shape = read_geometry(path)[1]
    except ValueError as reason:
        found.refused[stem_of(path)] = str(reason)
        return
    if len(shape) == 4 and shape[3] == len(MODALITIES):
        found.cases.append(Case(stem_of(path), {"all": path}, None, "msd", _order(path.parent)))


def _add(paths: dict[str, Path], modality: str, path: Path, found: Found, name: str) -> None:
    if modality in paths:
        found.refused[name or path.parent.name] = (
            f"two files for {modality}: {paths[modality].name} and {path.name}"
        )
    paths[modality] = path


def _in_table(path: Path, found: Found) -> str:
    """A CSV with the columns case, one for each modality, and perhaps seg; paths relative to it.

    Cells stand between commas, semicolons or tabs, whichever the first line has most of.
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
    for number, row in rows:
        cells = {name: (row[column] or "").strip() for name, column in columns.items()}
        if not any(cells.values()):
            continue
        name = cells.get("case") or f"line {number}"
        if reason := _wrong_in(cells):
            found.refused[name] = f"line {number} of {path.name} {reason}"
            continue
        files = {modality: path.parent / cells[modality] for modality in MODALITIES}
        labels = path.parent / cells["seg"] if cells.get("seg") else None
        found.cases.append(Case(name, files, labels, "listed"))
    return f"listed in {path.name}"


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Which column holds what; raises ValueError where two hold the same, or a modality has none."""
    columns: dict[str, str] = {}
    for name in names:
        word = name.strip().lower()
        meant = "seg" if _SEGMENTATION.fullmatch(word) else ALIASES.get(word, word)
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
