"""Conventions: what the labels of a published brain-tumour set mean, and how its files are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
            others = any({0, *other.classes}.issuperset(values) for other in CONVENTIONS.values())
            way = f"name the right convention with {_FLAG}" if others else "correct the file"
            raise ValueError(f"labels hold {shown}, but {self.title} has only {known}; {way}")
        return self._mapped(labels.astype(np.uint8), dict(self.classes))

    def to_file(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The set's own values, the first of those that mean the class; a class that it lacks cannot occur."""
        return self._mapped(
            classes, {own: value for value, own in reversed([*self.classes.items()])}
        )

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
            Convention(  # non-enhancing tumour and cysts are both of the core that does not enhance
                "peds2024",
                "BraTS-PEDs 2024 (children)",
                MappingProxyType({1: ENHANCING, 2: NECROSIS, 3: NECROSIS, 4: EDEMA}),
            ),
            Convention(
                "msd",
                "Medical Segmentation Decathlon Task01",
                MappingProxyType({1: EDEMA, 2: NECROSIS, 3: ENHANCING}),
            ),
        )
    }
)

_FLAG = f"--labels {'|'.join(CONVENTIONS)}"
_MEANT = frozenset(value for each in CONVENTIONS.values() for value in each.classes)
_MASKS = 3  # cases with tumour that are all of one label: fewer may be small tumours of one tissue


def convention_named(name: str) -> Convention:
    """The convention of that name; raises ValueError with the names that exist."""
    if name not in CONVENTIONS:
        raise ValueError(f"unknown labels {name!r}; known are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def convention_of(names: str, cases: Sequence[frozenset[int]]) -> tuple[Convention, str]:
    """The convention of a set, from how its files are ``named`` and which label values its ``cases`` hold, and why.

    ``names`` is "old" (_t1ce, _flair), "new" (-t1c, -t2f), "children" (the same of BraTS-PED), "msd" (imagesTr, four
    volumes a file), "listed" (files whose names say nothing, as a table of paths may list them), or a convention's own
    name, where a dataset.json tells of it. Values that no convention has are no evidence; a few cases that
    contradict names and the other cases leave a set settled: they are refused when they are read. Raises ValueError
    where names and values do not settle it, and where 1 alone marks every tumour, as a mask of the whole does.
    """
    told = [values & _MEANT for values in cases if values & _MEANT]
    if len(told) >= _MASKS and all(values == {1} for values in told):
        raise ValueError(
            f"all {len(told)} tumours that were looked at are labelled 1 alone, as a mask of the whole tumour is, and 1"
            f" is one of its parts; if it is meant so, say which with {_FLAG}"
        )
    if names == "msd":
        return _fitting("msd", told, "files as in the Decathlon")
    if names in CONVENTIONS:
        return _fitting(names, told, "as a dataset.json says")
    if names == "old":
        return _fitting("brats2021", told, "modalities named as up to 2021")
    fours, both, threes = (
        [values for values in told if wanted <= values and not values & never]
        for wanted, never in (({4}, set()), ({3, 4}, set()), ({3}, {4}))
    )
    if names == "children" and any(4 in values for values in told):
        return _fitting("peds2024", told, "modalities named as from 2023, of children, label 4")
    if names == "new" and both and (len(fours) > 1 or len(told) < 3):
        return _fitting("brats2024", told, "modalities named as from 2023, labels 3 and 4")
    if names == "new" and (not fours or len(fours) <= len(threes)):
        least = "" if fours else ", no label 4"
        return _fitting("brats2023", told, f"modalities named as from 2023{least}")
    raise ValueError(
        f"what the labels {_shown(told)} mean is not clear: 4 is enhancing tumour up to 2021 and a resection cavity"
        f" from 2024, 1 and 2 change places in the Decathlon, and 1 is enhancing tumour in children's sets from 2024; say which"
        f" with {_FLAG}"
    )


def _fitting(name: str, cases: Sequence[frozenset[int]], reason: str) -> tuple[Convention, str]:
    """The convention that the names say, unless more cases contradict it than hold the value that marks it."""
    convention = CONVENTIONS[name]
    good = [values for values in cases if values <= convention.classes.keys()]
    marked = [values for values in good if max(convention.classes) in values]
    if len(marked) < len(cases) - len(good):
        raise ValueError(
            f"the names are those of {convention.title} ({reason}), but the labels are {_shown(cases)};"
            f" say what they mean with {_FLAG}"
        )
    return convention, f"{reason}; labels seen: {_shown(good)}"


def _shown(cases: Sequence[frozenset[int]]) -> str:
    return ", ".join(map(str, sorted(frozenset().union(*cases)))) or "none"
