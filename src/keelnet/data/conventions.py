"""Conventions: what the labels of a published brain-tumour set mean, and how its files are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

# The modalities in the order in which keelnet stacks them.
MODALITIES = ("flair", "t1", "t1ce", "t2")
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "flair": "flair",
        "t2f": "flair",
        "t1": "t1",
        "t1w": "t1",
        "t1n": "t1",
        "t1ce": "t1ce",
        "t1gd": "t1ce",
        "t1c": "t1ce",
        "t2": "t2",
        "t2w": "t2",
    }
)

# Tissue classes as keelnet numbers them, whatever a set does.
NECROSIS, EDEMA, ENHANCING, CAVITY = 1, 2, 3, 4
CLASS_NAMES = ("background", "necrosis", "edema", "enhancing", "cavity")

# Overlapping regions that are scored: whole tumour, tumour core, enhancing tumour.
REGIONS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "WT": (NECROSIS, EDEMA, ENHANCING),
        "TC": (NECROSIS, ENHANCING),
        "ET": (ENHANCING,),
    }
)


@dataclass(frozen=True)
class Convention:
    """The meaning of a set's label values: ``classes`` maps each to one of keelnet's classes."""

    name: str
    title: str
    classes: Mapping[int, int]

    def from_file(self, labels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """keelnet's classes; raises ValueError for values that the convention does not have."""
        values = np.unique(labels)
        strange = [value for value in values.tolist() if value not in (0, *self.classes)]
        if strange:
            shown = ", ".join(f"{value:g}" for value in strange[:5])
            known = ", ".join(str(value) for value in (0, *self.classes))
            raise ValueError(
                f"labels hold {shown}, but {self.title} has only {known}; "
                f"name the right convention with --labels {'|'.join(CONVENTIONS)}"
            )
        return self._mapped(labels.astype(np.uint8), dict(self.classes))

    def to_file(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The set's own values; a class that it lacks cannot occur."""
        return self._mapped(classes, {own: value for value, own in self.classes.items()})

    @staticmethod
    def _mapped(values: NDArray[np.uint8], table: dict[int, int]) -> NDArray[np.uint8]:
        lookup = np.zeros(256, np.uint8)
        lookup[list(table)] = list(table.values())
        mapped: NDArray[np.uint8] = lookup[values]
        return mapped


CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            Convention(
                "brats2021",
                "BraTS 2017-2021",
                MappingProxyType({1: NECROSIS, 2: EDEMA, 4: ENHANCING}),
            ),
            Convention(
                "brats2023",
                "BraTS 2023 glioma",
                MappingProxyType({1: NECROSIS, 2: EDEMA, 3: ENHANCING}),
            ),
            Convention(
                "brats2024",
                "BraTS 2024 post-treatment",
                MappingProxyType({1: NECROSIS, 2: EDEMA, 3: ENHANCING, 4: CAVITY}),
            ),
            Convention(
                "msd",
                "Medical Segmentation Decathlon Task01",
                MappingProxyType({1: EDEMA, 2: NECROSIS, 3: ENHANCING}),
            ),
        )
    }
)


def convention_named(name: str) -> Convention:
    """The convention of that name; raises ValueError with the names that exist."""
    if name not in CONVENTIONS:
        raise ValueError(f"unknown labels {name!r}; known are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def convention_of(names: str, values: frozenset[int]) -> tuple[Convention, str]:
    """The convention of a set, from how its files are ``named`` and which label ``values`` it holds, and why.

    ``names`` is "old" (_t1ce, _flair), "new" (-t1c, -t2f), "msd" (imagesTr, four volumes a file), or
    "listed" (a table of paths, whose names say nothing). Raises ValueError where they do not settle it.
    """
    seen = ", ".join(map(str, sorted(values))) or "none"
    if names == "msd":
        return _fitting("msd", values, "files as in the Decathlon", seen)
    if names == "old":
        return _fitting("brats2021", values, "modalities named as up to 2021", seen)
    if names == "new" and 4 not in values:
        return _fitting("brats2023", values, "modalities named as from 2023, no label 4", seen)
    if names == "new" and 3 in values:
        return _fitting("brats2024", values, "modalities named as from 2023, labels 3 and 4", seen)
    if names == "listed" and 4 in values and 3 not in values:
        return _fitting("brats2021", values, "label 4 and no label 3", seen)
    raise ValueError(
        f"what the labels {seen} mean is not clear: 4 is enhancing tumour up to 2021 and a resection cavity"
        " from 2024, 1 and 2 change places in the Decathlon; say which with --labels "
        + "|".join(CONVENTIONS)
    )


def _fitting(name: str, values: frozenset[int], reason: str, seen: str) -> tuple[Convention, str]:
    convention = CONVENTIONS[name]
    if not values <= convention.classes.keys():
        raise ValueError(
            f"the names are those of {convention.title} ({reason}), but the labels are {seen};"
            f" say what they mean with --labels {'|'.join(CONVENTIONS)}"
        )
    return convention, f"{reason}; labels seen: {seen}"
