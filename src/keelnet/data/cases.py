"""Cases: the files of each subject, found in a folder, a table of paths, or named one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.case_names import with_own_names
from keelnet.data.case_tables import read_table
from keelnet.data.conventions import MODALITIES, Convention
from keelnet.data.groups import Groups, hint
from keelnet.data.refusals import Refusals
from keelnet.data.stacks import decathlon, images_of, layout_of, stacks
from keelnet.data.volumes import is_volume


@dataclass
class Found:
    """Cases in the order of their names, those refused with the reason, and what was recognised.

    unclear: of cases without labels, which files may hold them. passed: files of four volumes beside cases of other
    layouts, which are none of theirs. remarks: what else was not read. scans: of those refused for their labels alone,
    the case without labels, by the same name.
    """

    cases: list[Case] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)
    passed: list[Path] = field(default_factory=list)
    layout: str = ""
    convention: Convention | None = None
    reason: str = ""
    remarks: list[str] = field(default_factory=list)
    scans: dict[str, Case] = field(default_factory=dict)

    @property
    def labels(self) -> str | None:
        """The name of the convention."""
        return self.convention.name if self.convention is not None else None

    def for_prediction(self) -> Found:
        """The same where labels do not matter: cases that are refused for them alone are cases without labels."""
        cases = sorted([*self.cases, *self.scans.values()], key=lambda case: case.name)
        refused = {name: reason for name, reason in self.refused.items() if name not in self.scans}
        return replace(self, cases=cases, refused=refused, scans={})

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
                f"passed over, as there are other cases: {len(self.passed)} of four volumes a file, such as"
                f" {self.passed[0]}; to read them, put them into a folder imagesTr or beside a dataset.json"
            )
        lines += self.remarks
        lines += [f"refused {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def find_cases(inputs: Sequence[Path]) -> Found:
    """The cases in a folder (searched through), a single case's folder or files, or a CSV of paths.

    Cases of one name are refused, as are those whose name no file can have. Raises ValueError where there is none.
    """
    search = _Search()
    loose: dict[str, Path] = {}
    for path in inputs:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        if path.is_dir():
            search.folder(path)
        elif path.suffix.lower() == ".csv":
            search.table(path)
        elif is_volume(path):
            loose.setdefault(os.path.abspath(path), path)
        else:
            raise ValueError(f"{path} is neither a folder, a CSV of paths, nor a NIfTI file")
    if loose:
        search.files([*loose.values()], named=True)
    if not search.found.cases and not search.refused.reasons:
        shown = ", ".join(map(str, inputs))
        raise ValueError(
            f"no case in {shown}: wanted are NIfTI files named like <case>_t1ce.nii.gz or <case>-t1c.nii.gz,"
            " imagesTr/<case>.nii.gz with four volumes each, or a CSV with the columns case, "
            + ", ".join(MODALITIES)
        )
    return search.ended()


class _Search:
    """What is found in one place after the other."""

    def __init__(self) -> None:
        self.found, self.refused = Found(), Refusals()
        self.layouts: list[str] = []
        self.marked: dict[str, list[Path]] = {}

    def table(self, path: Path) -> None:
        cases, unread = read_table(path, self.refused)
        self.found.cases += cases
        self.found.remarks += unread
        self.layouts.append(f"listed in {path.name}")

    def folder(self, folder: Path) -> None:
        files = self._without_test_sets(sorted(_volumes_in(folder, self.refused)))
        for root in (folder, folder / "imagesTr"):
            own = [path for path in files if path.parent == root]
            if own and images_of(root):
                cases, layout = decathlon(own, self.refused)
                self.found.cases += cases
                self.layouts.append(layout)
                rest = [path for path in files if path.parent != root]
                self.files(rest, beside={case.name for case in cases})
                return
        self.files(files)

    def _without_test_sets(self, files: Sequence[Path]) -> list[Path]:
        """Without what lies in imagesTs beside imagesTr: a set to test on is asked for by its own folder."""
        places = {path.parent for path in files}
        apart = {
            place
            for place in places
            if place.name == "imagesTs" and place.with_name("imagesTr") in places
        }
        self.found.remarks += [
            f"left out: {place}, a set to test on; to read it, ask for this folder itself"
            for place in sorted(apart)
        ]
        return [path for path in files if path.parent not in apart]

    def files(
        self, files: Sequence[Path], named: bool = False, beside: Set[str] = frozenset()
    ) -> None:
        """Files by their names; ``named``: each was asked for. ``beside``: the cases of a Decathlon that they lie at."""
        groups = Groups(files)
        self.found.cases += self._grouped(groups, beside) if beside else groups.cases(self.refused, self.found.unclear)  # fmt: skip
        whole = bool(beside) or (not named and bool(groups.taken))
        stacked, passed = stacks(groups.others, groups.taken, whole, named, self.refused)
        self.found.cases += stacked
        self.found.passed += passed
        self.layouts += ["a file for each modality"] * bool(groups)
        self.layouts += [layout_of(case) for case in stacked]
        for name, paths in groups.marked.items():
            self.marked.setdefault(name, []).extend(paths)

    def _grouped(self, groups: Groups, beside: Set[str]) -> list[Case]:
        """Beside a Decathlon an atlas or the same scans in files of their own keep no case of its from being read."""
        refused = Refusals()
        cases = list(groups.cases(refused, self.found.unclear))
        left = [f"{case.name}, which is in imagesTr" for case in cases if case.name in beside]
        for (place, name), reason in refused.reasons.items():
            if (place, name) in refused.scans and name not in beside:
                self.refused.add(name, place, reason, refused.scans[place, name])
            else:
                left.append(f"{name}, {reason}")
        if left:
            more = f", and {len(left) - 1} more" if len(left) > 1 else ""
            self.found.remarks.append(f"left out beside imagesTr: {left[0]}{more}")
        return [case for case in cases if case.name not in beside]

    def ended(self) -> Found:
        """All of it, by names."""
        found, refused = self.found, self.refused
        named = self._nameable(with_own_names(self._nameable(found.cases), refused))
        found.cases = sorted(named, key=lambda case: case.name)
        said = {line.partition(" is without labels")[0] for line in found.unclear}
        bare = (case for case in found.cases if case.labels is None and case.name not in said)
        found.unclear += [line for case in bare if (line := hint(case, self.marked))]
        found.unclear = [*dict.fromkeys(found.unclear)]  # a folder may be asked for twice
        found.passed = [*dict.fromkeys(found.passed)]
        shown = refused.shown({case.name for case in found.cases})
        found.refused = {shown[key]: reason for key, reason in refused.reasons.items()}
        found.scans = {
            case.name: case
            for key, case in refused.scans.items()
            if case.name == shown[key] and case.can_name_files
        }
        found.layout = "; ".join(dict.fromkeys(self.layouts)) or "a file for each modality"
        return found

    def _nameable(self, cases: Sequence[Case]) -> list[Case]:
        """Those by whose name files can be called; the others are refused."""
        for case in cases:
            if not case.can_name_files:
                self.refused.add(
                    case.name.encode("utf-8", "backslashreplace").decode(),
                    case.first.parent,
                    "no file can be called so: a case's name is UTF-8, starts with no dot and holds no slash and no line"
                    " break",
                )
        return [case for case in cases if case.can_name_files]


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
        # What a bin holds, or a program that was killed: .Trash-1000, .unfinished.
        # In order: of two links to a folder always the same one names its case.
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (
            path
            for path in (Path(root) / name for name in names)
            # A link that leads nowhere, as in a clone whose files were not fetched, belongs to a case that is refused.
            if is_volume(path) and (path.is_file() or not path.exists())
        )
