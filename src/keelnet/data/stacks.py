"""Stacks: files of four volumes, one a modality, as the Decathlon has them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.conventions import MODALITIES
from keelnet.data.listing import Listing
from keelnet.data.refusals import Refusals
from keelnet.data.volumes import SUFFIXES, read_geometry, stem_of

_MASKS = re.compile("(labels|mimics)(Tr|Ts)")


def images_of(folder: Path) -> Path | None:
    """The folder, if it is one of a Decathlon's by its own name or by that of what it is a link to."""
    for place in (Path(os.path.abspath(folder)), folder.resolve()):
        if place.name in ("imagesTr", "imagesTs"):
            return place
    return None


def holds_masks(folder: Path) -> bool:
    """Whether it is one of a Decathlon's, with a mask for each of its images."""
    found = _MASKS.fullmatch(folder.name)
    return found is not None and folder.with_name(f"images{found[2]}").is_dir()


def decathlon(files: Sequence[Path], refused: Refusals) -> tuple[list[Case], str]:
    """What imagesTr holds, four volumes a file, with labelsTr beside it."""
    stacked = Stacked(refused)
    cases = [case for path in files if (case := stacked.case_of(path))]
    return cases, four(stacked.listing(files[0].parent).order)


def four(order: Sequence[str]) -> str:
    return f"Decathlon, four volumes a file ({', '.join(order)})"


class Stacked:
    """Cases of four volumes in a file; what they are and their labels lie where the Decathlon has them."""

    def __init__(self, refused: Refusals) -> None:
        self.refused = refused
        self._listings: dict[Path, Listing] = {}

    def listing(self, folder: Path) -> Listing:
        """What is said of the files in a folder; read once. Raises ValueError."""
        place = folder if (images := images_of(folder)) is None else images.parent
        if place not in self._listings:
            self._listings[place] = Listing.in_folder(place)
        return self._listings[place]

    def are_ours(self, folder: Path) -> bool:
        """Whether images of a Decathlon lie there; those of its hearts and livers are listed with other modalities."""
        if images_of(folder) is None:
            return False
        try:
            self.listing(folder)
        except ValueError:
            return False
        return True

    def case_of(self, path: Path) -> Case | None:
        """None where it is refused, with two files of labels."""
        said = self.listing(path.parent)
        labels = _labels_of(path)
        one = labels[0] if len(labels) == 1 else None
        case = Case(stem_of(path), {"all": path}, one, said.names, said.order, said.means)
        if len(labels) < 2:
            return case
        reason = f"two files of labels: {labels[0].name} and {labels[1].name}"
        self.refused.add(case.name, path.parent, reason, case)
        return None


def _labels_of(path: Path) -> list[Path]:
    """Files of labels: the one that is called as the image is, else others, packed or not."""
    images = images_of(path.parent)
    if images is None:
        return []
    folder = images.parent / images.name.replace("images", "labels")
    # Also links that lead nowhere, as in a clone whose files were not fetched: the case is refused by their name.
    if os.path.lexists(folder / path.name):
        return [folder / path.name]
    found: list[Path] = []
    for suffix in SUFFIXES:
        labels = folder / (stem_of(path) + suffix)
        known = {os.path.realpath(other) for other in found}
        if os.path.lexists(labels) and os.path.realpath(labels) not in known:
            found.append(labels)
    return found


def stacks(
    files: Sequence[Path], taken: set[Path], whole: bool, named: bool, refused: Refusals
) -> tuple[list[Case], list[Path]]:
    """Files of four volumes, a case each, and those that are passed over.

    taken: folders of cases named by modality. Where there are ``whole`` cases of another kind, others are none of ours
    unless a Decathlon's folder or list says it: four volumes may be directions of diffusion as well. What was asked for
    (``named``) or lies among a Decathlon's images is a case whatever it holds: it is refused when it is read.
    """
    cases: list[Case] = []
    passed: list[Path] = []
    stacked = Stacked(refused)
    for path in files:
        if path.parent in taken:
            continue
        doubtful = whole and not _in_decathlon(path)
        try:
            shape = read_geometry(path)[1]
        except ValueError as reason:
            if not doubtful:
                refused.add(stem_of(path), path.parent, str(reason))
            continue
        fits = len(shape) == 4 and shape[3] == len(MODALITIES)
        if fits and doubtful:
            passed.append(path)
        elif (fits or named or stacked.are_ours(path.parent)) and (case := stacked.case_of(path)):
            cases.append(case)
    return cases, passed


def _in_decathlon(path: Path) -> bool:
    return images_of(path.parent) is not None or (path.parent / "dataset.json").is_file()
