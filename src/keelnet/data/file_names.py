"""File names: the subject and the modality that they tell, what marks a segmentation, the edition of a set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from keelnet.data.conventions import ALIASES

_SEPARATOR = "[-_. ]"
# <subject>_t1ce, <subject>-t1c, <subject> t1c …: a separator, then the last word.
_NAMED = re.compile(rf"^(?P<subject>.*?){_SEPARATOR}?(?P<kind>[A-Za-z0-9]+)$")
# The last is that of the TCGA collections.
_MARKS = rf"(d?seg|segm|segmentations?|labels?|mask|glistrboost{_SEPARATOR}manuallycorrected)$"
SEGMENTATION = re.compile(
    rf"(^|{_SEPARATOR}|(?<=tumor)|(?<=tumour)|(?<=lesion)){_MARKS}", re.IGNORECASE
)
# Masks of other programs, that mark the brain: <subject>_t1_brain_mask, <subject>_bet_mask …
OF_THE_HEAD = re.compile(rf"(^|{_SEPARATOR})(brain|bet|skull|head){_SEPARATOR}mask$", re.IGNORECASE)
OF_A_TUMOUR = re.compile(r"tumou?r|lesion", re.IGNORECASE)
# What the name of a subject may end with before the mark: <subject>_tumor_mask, <subject>_tumorMask.
TUMOUR_AT_END = re.compile(rf"(^|{_SEPARATOR})(tumou?r|lesion)$", re.IGNORECASE)
# What they mark in the brain: <subject>_brain_segmentation. It may be the labels of a subject <subject>_brain alone.
OF_THE_BRAIN = re.compile(
    rf"(^|{_SEPARATOR})(brain|parenchyma|bet|skull|head){_SEPARATOR}{_MARKS}", re.IGNORECASE
)
# What a program found in scans of the TCGA collections, not yet corrected by hand.
BY_A_PROGRAM = re.compile(rf"{_SEPARATOR}glistrboost$", re.IGNORECASE)
# Entities of BIDS: T1w with a contrast agent is what others call T1ce, and the rest say how one scan was taken.
_AGENT = re.compile(r"(^|_)ce-[A-Za-z0-9]+(?=_|$)")
_TAKEN = re.compile(r"_(acq|rec|run)-[A-Za-z0-9]+(?=_|$)")
_NEW = ("t1n", "t1c", "t2w", "t2f")
_CHILDREN = re.compile(rf"(^|{_SEPARATOR})ped{_SEPARATOR}", re.IGNORECASE)  # BraTS-PED-00001-000


def subject_and_kind(stem: str) -> tuple[str, str] | None:
    """What a name says before its last word, and that word in small letters; None where it is no modality.

    BIDS' <subject>_ce-<agent>_T1w is the T1ce of the subject.
    """
    match = _NAMED.match(stem)
    if match is None or match["kind"].lower() not in ALIASES:
        return None
    subject, word = without_end(match["subject"]), match["kind"].lower()
    if word == "t1w" and subject != without_agent(subject):
        return without_agent(subject), "t1ce"
    return subject, word


def without_agent(subject: str) -> str:
    """A BIDS name without the contrast agent, ce-; others as they are."""
    return _AGENT.sub("", subject)


def of_session(subject: str) -> str:
    """A BIDS name without what it says of how one scan was taken: acq-, rec-, run-; others as they are."""
    return _TAKEN.sub("", subject) if subject.startswith("sub-") else subject


def without_end(subject: str) -> str:
    """Without the separators that it ends with."""
    return subject.rstrip("-_. ")


def folder_name(folder: Path) -> str:
    """Also of "."; a link has its own."""
    return Path(os.path.abspath(folder)).name


def edition(subjects: Iterable[str], words: set[str]) -> str:
    """How a case's files are named, by its words for the modalities, see `conventions.convention_of`."""
    if not words <= {*_NEW}:
        return "old"
    return "children" if any(map(_CHILDREN.search, subjects)) else "new"
