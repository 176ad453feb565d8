"""Channels: files of one volume each, by their numbers a case, as nnU-Net has them: <case>_0000 to <case>_0003."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keelnet.data.conventions import MODALITIES
from keelnet.data.volumes import read_geometry, stem_of

_NUMBERED = re.compile(r"(?P<case>.+)_000(?P<number>[0-3])")
LAYOUT = "nnU-Net's layout (a file a channel, <case>_0000 to <case>_0003)"
WAY_OUT = f"a CSV of paths with the columns case, {', '.join(MODALITIES)} will do instead"


@dataclass(frozen=True)
class Channels:
    """The files of one case, by the number that each bears."""

    folder: Path
    case: str
    files: tuple[tuple[int, Path], ...]

    @property
    def reason(self) -> str:
        """What keeps them from being a case; empty where each number is there once."""
        for number in range(len(MODALITIES)):
            own = [path.name for at, path in self.files if at == number]
            if not own:
                return f"{LAYOUT} without {self.case}_000{number}"
            if len(own) > 1:
                return f"{LAYOUT} with two files for a channel: {own[0]} and {own[1]}"
        return ""


def is_channel(path: Path) -> bool:
    """Whether it is called as a channel of a case is."""
    return _NUMBERED.fullmatch(stem_of(path)) is not None


def channels(files: Sequence[Path]) -> tuple[list[Channels], list[Path]]:
    """The cases in files that are so numbered, and all other files.

    A folder is laid out so where a case in it has several of them. Files of four volumes may bear numbers as well.
    """
    groups: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
    for path in files:
        if named := _NUMBERED.fullmatch(stem_of(path)):
            key = path.parent, named["case"]
            groups.setdefault(key, []).append((int(named["number"]), path))
    groups = {key: own for key, own in groups.items() if not any(_several(path) for _, path in own)}
    laid_out = {key[0] for key, own in groups.items() if len({number for number, _ in own}) > 1}
    found = [Channels(*key, tuple(own)) for key, own in groups.items() if key[0] in laid_out]
    taken = {path for each in found for _, path in each.files}
    return found, [path for path in files if path not in taken]


def _several(path: Path) -> bool:
    """Whether it holds several volumes; one that cannot be read is refused when it is read."""
    try:
        shape = read_geometry(path)[1]
    except ValueError:
        return False
    return len(shape) == 4 and shape[3] > 1
