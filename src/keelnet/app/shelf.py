"""The shelf: which folders below one hold runs or labelled scans, and what is read from them while they grow."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from keelnet.data.file_names import folder_name
from keelnet.data.volumes import SUFFIXES
from keelnet.experiments.folders import STAGING

Kind = Literal["run", "labels"]
SIGNS: dict[Kind, str] = {"run": "recipe.toml", "labels": "volumes.json"}
DEEP = 5  # folders below the shelf that are looked into: runs/table/recipe/sweep/architecture/seed
SILENT = 600.0  # seconds without a new epoch after which a run may have stopped


class Labels(NamedTuple):
    """The labels of a case: their file, what ``volumes.json`` says of them, and a mark of what the file holds now."""

    file: Path
    about: dict[str, Any]
    version: str


@dataclass(frozen=True)
class Entry:
    """A folder on the shelf: of ``keelnet train`` ("run") or of ``keelnet segment`` ("labels")."""

    name: str
    folder: Path
    kind: Kind

    @property
    def root(self) -> Path:
        """Where it is written now: a run that replaces another is staged inside it."""
        staged = self.folder / STAGING
        return staged if _status(staged / SIGNS[self.kind]) else self.folder

    def history(self) -> list[dict[str, Any]]:
        """The epochs so far. A line that is being written is left for the next look."""
        found: list[dict[str, Any]] = []
        for line in self._text("history.jsonl").splitlines():
            try:
                epoch = json.loads(line)
            except ValueError:
                continue
            if isinstance(epoch, dict) and isinstance(epoch.get("epoch"), int):
                found.append(epoch)
        return found

    def table(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty where there is none yet, or none that can be read."""
        return _table(self.root / name)

    def recipe(self) -> str:
        """The recipe as it is written."""
        return self._text("recipe.toml")

    def pictures(self) -> list[str]:
        """Names of the PNG files, those of training first."""
        names = [name for name in _listed(self.root) if name.endswith(".png")]
        return sorted(names, key=lambda name: (name != "curves.png", name))

    def picture(self, name: str) -> Path:
        """A picture's path; raises ValueError for a name that is none of ``pictures``."""
        if name not in self.pictures():
            raise ValueError(f"{self.name} holds no picture {name}")
        return self.root / name

    def cases(self) -> list[str]:
        """Of labelled scans: the cases whose labels lie there."""
        return list(self.labels())

    def labels(self) -> dict[str, Labels]:
        """By case. File and words are of one folder: while others replace them, the staged ones where both are there."""
        return dict(_labels(self.folder)) | dict(_labels(self.folder / STAGING, growing=True))

    def state(self, labels: dict[str, Labels] | None = None) -> str:
        """One sentence: finished, or how far. labels: those that were just read, if they were."""
        if self.kind == "labels":
            return f"{len(self.labels() if labels is None else labels)} labelled cases"
        history = self.history()
        scores = self.table("scores.json")
        if scores and self.root == self.folder:
            return f"Finished: {len(history)} epochs, the best was epoch {scores.get('best_epoch', '?')}."
        written = _status(self.root / "history.jsonl")
        if not history or written is None:
            return "No epoch is finished yet."
        age = time.time() - written.st_mtime
        ago = "it may have stopped" if age > SILENT else "in training"
        return f"Epoch {history[-1]['epoch']}, {age:.0f} s ago; {ago}."

    def _text(self, name: str) -> str:
        return _text(self.root / name)


@dataclass(frozen=True)
class Shelf:
    """A folder that is a run or labelled scans itself, or holds some."""

    root: Path

    @classmethod
    def asked(cls, root: Path) -> Shelf:
        """A folder that the user named; raises ValueError where nothing can be seen in it."""
        if not os.path.isdir(root):
            raise ValueError(f"{root} is no folder; name that of a run, or one that holds runs")
        shelf = cls(root)
        if not shelf.entries():
            raise ValueError(
                f"{root} is no run folder and holds none: {' or '.join(SIGNS.values())} is looked for"
            )
        return shelf

    def entries(self) -> list[Entry]:
        """Newest first."""
        found: list[tuple[float, Entry]] = []
        for folder in self._folders():
            for kind, sign in SIGNS.items():
                entry = Entry(self._name(folder), folder, kind)
                file = _status(entry.root / sign)
                if file is not None:
                    found.append((file.st_mtime, entry))
                    break
        return [entry for _, entry in sorted(found, key=lambda each: -each[0])]

    def entry(self, name: str) -> Entry:
        """Raises ValueError for a name that is not on the shelf: a page asks for nothing else."""
        for entry in self.entries():
            if entry.name == name:
                return entry
        raise ValueError(f"{name} is no run folder below {self.root}")

    def _folders(self) -> list[Path]:
        found = level = [self.root]
        for _ in range(DEEP):
            level = [path for folder in level for path in _below(folder)]
            found = found + level
        return found

    def _name(self, folder: Path) -> str:
        if folder != self.root:
            return folder.relative_to(self.root).as_posix()
        return folder_name(folder) or str(folder)  # "/" has none


# A folder may be closed to us, and a run may be moved or removed between two looks: neither is an error.


def _below(folder: Path) -> list[Path]:
    """Folders, by what their own one says of them: no file is asked."""
    try:
        with os.scandir(folder) as found:
            return [Path(each.path) for each in found if each.name[0] != "." and _is_folder(each)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _status(path: Path) -> os.stat_result | None:
    """Of a file; None where there is none to be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _table(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _labels(folder: Path, growing: bool = False) -> Iterator[tuple[str, Labels]]:
    """The cases of one folder. growing: a file that is newer than ``volumes.json`` is not yet what that speaks of."""
    sign = folder / SIGNS["labels"]
    described = _status(sign)
    for case, about in _table(sign).items():
        files = (folder / f"{case}{suffix}" for suffix in SUFFIXES)
        seen = next(((file, found) for file in files if (found := _status(file))), None)
        if seen is None or described is None or not isinstance(about, dict):
            continue
        file, found = seen
        if not (growing and found.st_mtime_ns > described.st_mtime_ns):
            yield case, Labels(file, about, f"{found.st_mtime_ns}-{found.st_size}")
