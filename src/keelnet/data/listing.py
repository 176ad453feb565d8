"""Listing: what a dataset.json says of files of four volumes and of their labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keelnet.data.conventions import (
    ALIASES,
    CAVITY,
    CONVENTIONS,
    EDEMA,
    ENHANCING,
    MODALITIES,
    NECROSIS,
)

# How the files of a set with these labels are named, see `conventions.convention_of`.
_NAMED = {
    "brats2021": "old",
    "brats2023": "new",
    "brats2024": "new",
    "peds2024": "children",
    "msd": "msd",
}
# Words of a class, the first that fits: "surrounding non-enhancing FLAIR hyperintensity" is edema, and "non-enhancing"
# holds "enhancing".
_WORDS = (
    (EDEMA, r"edema|hyperintens|\bsnfh\b|^ed$"),
    (NECROSIS, r"necro|\bncr\b|\bnetc?\b|\b(non?|not|un|without) ?enhanc|cyst|^cc$"),
    (CAVITY, r"cavity|resect|^rc$"),
    (ENHANCING, r"enhanc|^et$"),
)


@dataclass(frozen=True)
class Listing:
    """The modalities of a file of four volumes in their order, and how sets with its labels are named.

    ``means`` is the convention of the labels, where they are told of and are not the Decathlon's; ``names`` is "listed"
    where what is told fits no convention, or several. ``told``: whether the meaning of any label is.
    """

    order: tuple[str, ...] = MODALITIES
    names: str = "msd"
    means: str = ""
    told: bool = False

    @classmethod
    def in_folder(cls, folder: Path) -> Listing:
        """As dataset.json says, if there is one. Raises ValueError where it does not list the four modalities."""
        path = folder / "dataset.json"
        if not path.is_file():
            return cls()
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            renamed = "modality" not in table and "channel_names" in table  # by nnU-Net
            modalities = table["channel_names" if renamed else "modality"]
            named = [str(modalities[key]) for key in sorted(modalities, key=int)]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ValueError(
                f"{path} does not list its modalities ({type(error).__name__}: {error})"
            ) from None
        order = tuple(ALIASES.get(name.lower(), "") for name in named)
        if sorted(order) != sorted(MODALITIES):
            raise ValueError(
                f"{path} lists the modalities {', '.join(named)}; {', '.join(MODALITIES)} are wanted"
            )
        meant = _meant(table.get("labels"))
        means = _convention(meant)
        names = _NAMED.get(means, "listed")
        return cls(order, names, "" if means == "msd" else means, bool(meant))


def _convention(meant: Mapping[int, int]) -> str:
    """The convention of labels that mean these classes: the Decathlon's if it may be; empty where several may, or none."""
    fitting = [
        each
        for each in CONVENTIONS.values()
        if all(each.classes.get(value) == own for value, own in meant.items())
    ]
    if CONVENTIONS["msd"] in fitting:
        return "msd"
    found = [each for each in fitting if each.classes.keys() == meant.keys()] or fitting
    return found[0].name if len(found) == 1 else ""


def _meant(labels: Any) -> dict[int, int]:
    """Classes by value, as far as the words are known."""
    if not isinstance(labels, dict):
        return {}
    meant: dict[int, int] = {}
    regions: dict[str, set[int]] = {}
    for values, words in _entries(labels):
        if len(values) > 1:
            regions |= {part: values for part in ("whole", "core") if part in words}
        elif own := next((own for own, each in _WORDS if re.search(each, words)), 0):
            meant |= dict.fromkeys(values, own)
    return meant | _apart(regions, {value for value, own in meant.items() if own == ENHANCING})


def _apart(regions: Mapping[str, set[int]], enhancing: set[int]) -> dict[int, int]:
    """The classes of which regions consist: edema is what is not core, necrosis what of the core does not enhance."""
    if not {"whole", "core"} <= regions.keys():
        return {}
    edema = dict.fromkeys(regions["whole"] - regions["core"], EDEMA)
    return edema | dict.fromkeys(regions["core"] - enhancing if enhancing else (), NECROSIS)


def _entries(labels: Mapping[Any, Any]) -> Iterator[tuple[set[int], str]]:
    """Values and words in small letters, whichever of the two are the keys: {value: words}, or {words: value or values}."""
    for key, value in labels.items():
        values, words = (key, value) if isinstance(value, str) else (value, str(key))
        try:
            found = {int(each) for each in (values if isinstance(values, list) else [values])}
        except (TypeError, ValueError, OverflowError):
            continue  # what nobody understands must not refuse a set
        yield found - {0}, " ".join(re.findall("[a-z]+", words.lower()))
