"""Stacks: files of four volumes, one a modality, as the Decathlon has them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from keelnet.data.case import Case
from keelnet.data.conventions import ALIASES, MODALITIES
from keelnet.data.refusals import Refusals
from keelnet.data.volumes import is_volume, read_geometry, stem_of


def images_of(folder: Path) -> Path | None:
    """The folder, if it is one of a Decathlon's by its own name or by that of what it is a link to."""
    for place in (Path(os.path.abspath(folder)), folder.resolve()):
        if place.name in ("imagesTr", "imagesTs"):
            return place
    return None


def decathlon(images: Path) -> tuple[list[Case], str]:
    """imagesTr with four volumes a file, labelsTr beside it."""
    cases = [stacked(path) for path in sorted(filter(is_volume, images.iterdir()))]
    return cases, four(_order(images.parent))


def four(order: Sequence[str]) -> str:
    return f"Decathlon, four volumes a file ({', '.join(order)})"


def stacked(path: Path) -> Case:
    """A case of four volumes in a file; what they are and its labels lie where the Decathlon has them."""
    images = images_of(path.parent)
    if images is None:
        return Case(stem_of(path), {"all": path}, None, "msd", _order(path.parent))
    labels = images.parent / images.name.replace("images", "labels") / path.name
    own = labels if labels.is_file() else None
    return Case(stem_of(path), {"all": path}, own, "msd", _order(images.parent))


def _order(folder: Path) -> tuple[str, ...]:
    """The modalities of a file of four volumes: by dataset.json where there is one."""
    path = folder / "dataset.json"
    if not path.is_file():
        return "flair", "t1", "t1ce", "t2"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["modality"]
        named = [str(table[key]) for key in sorted(table, key=int)]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"{path} does not list its modalities ({type(error).__name__}: {error})"
        ) from None
    order = tuple(ALIASES.get(name.lower(), "") for name in named)
    if sorted(order) != sorted(MODALITIES):
        raise ValueError(
            f"{path} lists the modalities {', '.join(named)}; {', '.join(MODALITIES)} are wanted"
        )
    return order


def stacks(
    files: Sequence[Path], taken: set[Path], whole: bool, refused: Refusals
) -> tuple[list[Case], list[Path]]:
    """Files of four volumes, a case each, and those that are passed over.

    taken: folders of cases named by modality. Where ``whole`` cases are named so, others are none of ours unless a
    Decathlon's folder or list says it: four volumes may be directions of diffusion as well.
    """
    cases: list[Case] = []
    passed: list[Path] = []
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
        if len(shape) == 4 and shape[3] == len(MODALITIES):
            if doubtful:
                passed.append(path)
            else:
                cases.append(stacked(path))
    return cases, passed


def _in_decathlon(path: Path) -> bool:
    return images_of(path.parent) is not None or (path.parent / "dataset.json").is_file()
