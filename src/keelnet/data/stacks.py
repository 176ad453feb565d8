"""Stacks: files of four volumes, one a modality, as the Decathlon has them, or a file a channel in the same folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.channels import LAYOUT, WAY_OUT, Channels, channels
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
    """What imagesTr holds, four volumes a file or, as nnU-Net has it, a file a channel, with labelsTr beside it."""
    stacked = Stacked(refused)
    numbered, whole = channels(files)
    cases = [case for path in whole if (case := stacked.case_of(path))]
    layouts = [four(stacked.listing(files[0].parent).order)] if whole else []
    channelled = [case for each in numbered if (case := stacked.channelled(each))]
    layouts += ["nnU-Net, a file a channel"] if numbered and not channelled else []
    layouts += dict.fromkeys(map(layout_of, channelled))
    return [*cases, *channelled], "; ".join(layouts)


def layout_of(case: Case) -> str:
    """In the order of its volumes, or of the numbers of its files."""
    if case.stacked:
        return four(case.order)
    order = sorted(case.files, key=lambda modality: case.files[modality].name)
    return f"nnU-Net, a file a channel ({', '.join(order)})"


def four(order: Sequence[str]) -> str:
    return f"Decathlon, four volumes a file ({', '.join(order)})"


class Stacked:
    """Cases of four volumes in a file; what they are and their labels lie where the Decathlon has them."""

    def __init__(self, refused: Refusals) -> None:
        self.refused = refused
        self._listings: dict[Path, Listing] = {}

    def listing(self, folder: Path) -> Listing:
        """What is said of the files in a folder; read once. Raises ValueError."""
        place = _listed_in(folder)
        if place not in self._listings:
            self._listings[place] = Listing.in_folder(place)
        return self._listings[place]

    def are_ours(self, folder: Path) -> bool:
        """Whether images of a Decathlon lie there; those of its hearts and livers are listed with other modalities."""
        return images_of(folder) is not None and self.lists_ours(folder)

    def lists_ours(self, folder: Path) -> bool:
        """Whether nothing is said of the files in a folder, or that they are of the four modalities."""
        try:
            self.listing(folder)
        except ValueError:
            return False
        return True

    def case_of(self, path: Path) -> Case | None:
        """None where it is refused, with two files of labels."""
        said = self.listing(path.parent)
        case = Case(stem_of(path), {"all": path}, None, said.names, said.order, said.means)
        return self._with_labels(case, path)

    def channelled(self, found: Channels) -> Case | None:
        """A case of a file a channel, whose modalities dataset.json names; None where it is refused."""
        place = _listed_in(found.folder)
        reason = found.reason
        try:
            said = self.listing(found.folder)
            if not (place / "dataset.json").is_file():
                reason = reason or f"{LAYOUT} without a {place / 'dataset.json'} that names them"
        except ValueError as error:
            said, reason = Listing(), reason or f"{LAYOUT}: {error}"
        if reason:
            self.refused.add(found.case, found.folder, f"{reason}; {WAY_OUT}")
            return None
        files = {said.order[number]: path for number, path in found.files}
        own = {modality: files[modality] for modality in MODALITIES}
        # Unlike the Decathlon's, the layout itself says nothing of labels.
        case = Case(found.case, own, None, said.names if said.told else "listed", means=said.means)
        first = found.files[0][1]
        return self._with_labels(
            case, first.with_name(found.case + first.name[len(stem_of(first)) :])
        )

    def _with_labels(self, case: Case, path: Path) -> Case | None:
        """With those that are called as ``path`` is; None where it is refused, with two files of them."""
        labels = _labels_of(path)
        if len(labels) < 2:
            return replace(case, labels=labels[0] if labels else None)
        reason = f"two files of labels: {labels[0].name} and {labels[1].name}"
        self.refused.add(case.name, path.parent, reason, case)
        return None


def _listed_in(folder: Path) -> Path:
    """Where the dataset.json lies that says what is in a folder."""
    return folder if (images := images_of(folder)) is None else images.parent


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
    """Files of four volumes, a case each, and of a file a channel, and those that are passed over.

    taken: folders of cases named by modality. Where there are ``whole`` cases of another kind, others are none of ours
    unless a Decathlon's folder or list says it: four volumes may be directions of diffusion as well. What was asked for
    (``named``) or lies among a Decathlon's images is a case whatever it holds: it is refused when it is read.
    """
    cases: list[Case] = []
    passed: list[Path] = []
    stacked = Stacked(refused)
    numbered, rest = channels([path for path in files if path.parent not in taken])
    for each in numbered:
        ours = _in_decathlon(each.files[0][1]) and stacked.lists_ours(each.folder)
        if (named or ours) and (case := stacked.channelled(each)):
            cases.append(case)
    for path in rest:
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
