"""Case: the files of one subject."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from keelnet.data.patients import patient_of

# What is made of a case is called by its name, in the folder that the user chose.
_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*")


@dataclass(frozen=True)
class Case:
    """One subject: a file for each modality, or one file of four volumes; perhaps its labels.

    ``names`` says how the files are named, see `conventions.convention_of`. ``order`` are the
    modalities of a file of four volumes. ``means`` is the convention that a dataset.json tells of, if it is not the
    Decathlon's. ``bare``: called by its folder, as its files bear no name of their own. ``patient``: whose scan it is,
    where a table says so.
    """

    name: str
    files: dict[str, Path]
    labels: Path | None
    names: str
    order: tuple[str, ...] = ()
    means: str = ""
    bare: bool = False
    patient: str = ""

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

    @property
    def whose(self) -> str:
        """The patient: scans of one are trained on or withheld together."""
        return patient_of(self.patient or self.name)

    @property
    def can_name_files(self) -> bool:
        return can_name_files(self.name)


def can_name_files(name: str) -> bool:
    """Whether a name starts with no dot and holds no slash, no line break and nothing that is not Unicode."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of another encoding, as old archives have
        return False
    return _NAME.fullmatch(name) is not None
