"""Cases: the files of each subject, found in a folder, a table of paths, or named one by one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.case_tables import read_table
from keelnet.data.conventions import ALIASES, MODALITIES, Convention
from keelnet.data.refusals import Key, Refusals
from keelnet.data.stacks import decathlon, four, images_of, stacks
from keelnet.data.volumes import is_volume, stem_of

# <subject>_t1ce, <subject>-t1c, <subject>_seg …: a separator, then the last word.
_NAMED = re.compile(r"^(?P<subject>.*?)[-_.]?(?P<kind>[A-Za-z0-9]+)$")
_MARKS = r"(seg|segm|segmentation|labels?|mask)$"
_SEGMENTATION = re.compile(r"(^|[-_.])" + _MARKS, re.IGNORECASE)
# Masks of other programs, that mark the brain: <subject>_t1_brain_mask, <subject>_bet_mask …
_OF_THE_HEAD = re.compile(r"(^|[-_.])(brain|bet|skull|head)[-_.]mask$", re.IGNORECASE)
# What they mark in the brain: <subject>_brain_segmentation. It may be the labels of a subject <subject>_brain alone.
_OF_THE_BRAIN = re.compile(
    r"(^|[-_.])(brain|parenchyma|bet|skull|head)[-_.]" + _MARKS, re.IGNORECASE
)
_OF_A_TUMOUR = re.compile(r"tumou?r|lesion", re.IGNORECASE)
_NEW = ("t1n", "t1c", "t2w", "t2f")
_CHILDREN = re.compile(r"(^|[-_.])ped[-_.]", re.IGNORECASE)  # BraTS-PED-00001-000


@dataclass
class Found:
    """Cases in the order of their names, those refused with the reason, and what was recognised.

    unclear: of cases without labels, which files may hold them. passed: files of four volumes beside cases of other
    layouts, which are none of theirs.
    """

    cases: list[Case] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)
    passed: list[Path] = field(default_factory=list)
    layout: str = ""
    convention: Convention | None = None
    reason: str = ""

    def __str__(self) -> str:
        count = len(self.cases)
        lines = [f"{count} case{'s' * (count != 1)}: {self.layout}"]
        if self.convention is not None:
            lines.append(f"labels: {self.convention.title} ({self.reason})")
        lines += self.unclear[:1]
        if len(self.unclear) > 1:
            lines.append(f"and so in {len(self.unclear) - 1} more")
        if self.passed:
            lines.append(
                f"passed over, as there are cases named by modality: {len(self.passed)} of four volumes a file, such as"
                f" {self.passed[0]}; to read them, put them into a folder imagesTr or beside a dataset.json"
            )
        lines += [f"refused {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def find_cases(inputs: Sequence[Path]) -> Found:
    """The cases in a folder (searched through), a single case's folder or files, or a CSV of paths.

    Raises ValueError where there is none, and where two cases bear one name.
    """
    found, refused = Found(), Refusals()
    layouts: list[str] = []
    loose: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        if path.is_dir():
            layouts.append(_in_folder(path, found, refused))
        elif path.suffix.lower() == ".csv":
            cases, bad = read_table(path)
            found.cases += cases
            for name, reason in bad.items():
                refused.add(name, path, reason)
            layouts.append(f"listed in {path.name}")
        elif is_volume(path):
            loose.append(path)
        else:
            raise ValueError(f"{path} is neither a folder, a CSV of paths, nor a NIfTI file")
    if loose:
        layouts.append(_grouped(loose, found, refused, named=True))
    if not found.cases and not refused.reasons:
        shown = ", ".join(map(str, inputs))
        raise ValueError(
            f"no case in {shown}: wanted are NIfTI files named like <case>_t1ce.nii.gz or <case>-t1c.nii.gz,"
            " imagesTr/<case>.nii.gz with four volumes each, or a CSV with the columns case, "
            + ", ".join(MODALITIES)
        )
    for case in list(found.cases):
        if not case.can_name_files:
            found.cases.remove(case)
            shown = case.name.encode("utf-8", "backslashreplace").decode()
            refused.add(
                shown,
                case.first.parent,
                "no file can be called so: a case's name is UTF-8, starts with no dot and holds no slash and no line"
                " break",
            )
    _require_own_names(found.cases)
    found.refused = refused.named({case.name for case in found.cases})
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


def _in_folder(folder: Path, found: Found, refused: Refusals) -> str:
    for root in (folder, folder / "imagesTr"):
        if root.is_dir() and (images := images_of(root)):
            cases, layout = decathlon(images)
            found.cases += cases
            return layout
    return _grouped(sorted(_volumes_in(folder, refused)), found, refused)


def _volumes_in(folder: Path, refused: Refusals) -> Iterator[Path]:
    """Every volume below a folder, through links as well; a link that leads back is gone through once."""

    def refuse(error: OSError) -> None:
        place = Path(error.filename)
        refused.add(place.name, place.parent, f"{place} cannot be read ({error.strerror})")

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


def _grouped(files: Sequence[Path], found: Found, refused: Refusals, named: bool = False) -> str:
    """Files of one folder that share the name before their last word are a case; ``named``: each was asked for."""
    groups: dict[Key, dict[str, Path]] = {}
    spellings: dict[Key, set[str]] = {}
    segmentations: dict[Key, list[Path]] = {}
    twice: dict[Key, str] = {}
    odd: dict[Path, list[Path]] = {}
    tissues: dict[Path, list[Path]] = {}
    others: list[Path] = []
    for path in files:
        stem = stem_of(path)
        match = _NAMED.match(stem)
        kind = match["kind"].lower() if match else ""
        if match and kind in ALIASES:
            key = path.parent, match["subject"].rstrip("-_.")
            modality, own = ALIASES[kind], groups.setdefault(key, {})
            if modality in own:
                twice[key] = f"two files for {modality}: {own[modality].name} and {path.name}"
            own[modality] = path
            spellings.setdefault(key, set()).add(kind)
        elif (marked := _SEGMENTATION.search(stem)) and not _OF_THE_HEAD.search(stem):
            key = path.parent, stem[: marked.start()].rstrip("-_.")
            segmentations.setdefault(key, []).append(path)
            if _OF_THE_BRAIN.search(stem):
                tissues.setdefault(path.parent, []).append(path)
            elif marked[2].lower() != "mask" or _OF_A_TUMOUR.search(stem):
                odd.setdefault(path.parent, []).append(path)
        else:
            others.append(path)
    for (folder, subject), paths in groups.items():
        name = subject or _called(folder)
        labels = segmentations.get((folder, subject), [])
        if reason := twice.get((folder, subject)) or _wrong_in(paths, labels, folder):
            refused.add(name, folder, reason)
            continue
        alone = [key for key in groups if key[0] == folder]
        # One mask of the 2020 set bears the name of another study.
        if not labels and len(alone) == 1:
            labels = _left_over(odd.get(folder, []), paths["t1"])
            passed = [path for path in odd.get(folder, []) if path not in labels]
            if not labels and (left := [*tissues.get(folder, []), *passed]):
                found.unclear.append(
                    f"{name} is without labels: {left[0].name} is taken for tissues of the brain; if it marks the"
                    f" tumour, give it the name of the scans, with seg for the modality"
                )
        if len(labels) > 1:
            found.unclear.append(
                f"{name} is without labels: they may be {labels[0].name} or {labels[1].name};"
                " give the right one the name of the scans, with seg for the modality"
            )
        own = {modality: paths[modality] for modality in MODALITIES}
        names = _names(name, spellings[folder, subject])
        found.cases.append(Case(name, own, labels[0] if len(labels) == 1 else None, names))
    whole = not named and any(own.keys() >= {*MODALITIES} for own in groups.values())
    taken = {folder for (folder, _), own in groups.items() if own.keys() >= {*MODALITIES}}
    stacked, passed = stacks(others, taken, whole, refused)
    found.cases += stacked
    found.passed += passed
    told = ["a file for each modality"] if groups or not stacked else []
    return "; ".join(dict.fromkeys([*told, *(four(case.order) for case in stacked)]))


def _wrong_in(paths: Mapping[str, Path], labels: Sequence[Path], folder: Path) -> str:
    """What keeps files from being a case; empty where nothing does."""
    if missing := [each for each in MODALITIES if each not in paths]:
        return f"{', '.join(missing)} missing in {folder}"
    if len(labels) > 1:
        return f"two files of labels: {labels[0].name} and {labels[1].name}"
    return ""


def _left_over(odd: Sequence[Path], t1: Path) -> list[Path]:
    """Which of these may be the labels of the only case in their folder: one that says so, or any but T1's tissues."""
    # Segmenters of tissues, as FAST, call what they find on <subject>_t1 <subject>_t1_seg.
    own = [path for path in odd if _SEGMENTATION.sub("", stem_of(path)) != stem_of(t1)]
    named = [path for path in own if _OF_A_TUMOUR.search(stem_of(path))]
    return named if len(named) == 1 else own


def _called(folder: Path) -> str:
    """Also where it is "."; a link by its own name."""
    return Path(os.path.abspath(folder)).name


def _names(subject: str, words: set[str]) -> str:
    """How the files of a case are named, see `conventions.convention_of`."""
    if not words <= {*_NEW}:
        return "old"
    return "children" if _CHILDREN.search(subject) else "new"
