"""The shelf: which folders below one hold runs or labelled scans, and what is read from them while they grow."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keelnet.data.volumes import SUFFIXES
from keelnet.experiments.folders import STAGING

Kind = Literal["run", "labels"]
SIGNS: dict[Kind, str] = {"run": "recipe.toml", "labels": "volumes.json"}
DEEP = 3  # folders below the shelf that are looked into
SILENT = 600.0  # seconds without a new epoch after which a run may have stopped


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
        return staged if (staged / SIGNS[self.kind]).is_file() else self.folder

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
        try:
            value = json.loads(self._text(name) or "{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def recipe(self) -> str:
        """The recipe as it is written."""
        return self._text("recipe.toml")

    def pictures(self) -> list[str]:
        """Names of the PNG files, those of training first."""
        names = [path.name for path in self.root.glob("*.png")]
        return sorted(names, key=lambda name: (name != "curves.png", name))

    def picture(self, name: str) -> Path:
        """A picture's path; raises ValueError for a name that is none of ``pictures``."""
        if name not in self.pictures():
            raise ValueError(f"{self.name} holds no picture {name}")
        return self.root / name

    def cases(self) -> list[str]:
        """Of labelled scans: the cases whose labels lie there."""
        return [
            name
            for name in self.table("volumes.json")
            if any((self.folder / f"{name}{suffix}").is_file() for suffix in SUFFIXES)
        ]

    def state(self) -> str:
        """One sentence: finished, or how far."""
        if self.kind == "labels":
            return f"{len(self.cases())} labelled cases"
        history = self.history()
        scores = self.table("scores.json")
        if scores and self.root == self.folder:
            return f"Finished: {len(history)} epochs, the best was epoch {scores.get('best_epoch', '?')}."
        if not history:
            return "No epoch is finished yet."
        age = time.time() - (self.root / "history.jsonl").stat().st_mtime
        ago = "it may have stopped" if age > SILENT else "in training"
        return f"Epoch {history[-1]['epoch']}, {age:.0f} s ago; {ago}."

    def _text(self, name: str) -> str:
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""


@dataclass(frozen=True)
class Shelf:
    """A folder that is a run or labelled scans itself, or holds some."""

    root: Path

    @classmethod
    def asked(cls, root: Path) -> Shelf:
        """A folder that the user named; raises ValueError where nothing can be seen in it."""
        if not root.is_dir():
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
                file = entry.root / sign
                if file.is_file():
                    found.append((file.stat().st_mtime, entry))
                    break
        return [entry for _, entry in sorted(found, key=lambda each: -each[0])]

    def entry(self, name: str) -> Entry:
        """Raises ValueError for a name that is not on the shelf: a page asks for nothing else."""
        for entry in self.entries():
            if entry.name == name:
                return entry
        raise ValueError(f"{name} is no run folder below {self.root}")

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        levels = ["/".join("*" * depth) for depth in range(1, DEEP + 1)]
        below = [path for level in levels for path in self.root.glob(level) if path.is_dir()]
        return [self.root, *(path for path in below if not path.name.startswith("."))]

    def _name(self, folder: Path) -> str:
        return folder.name if folder == self.root else folder.relative_to(self.root).as_posix()
