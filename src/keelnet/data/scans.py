"""Scans: a case read, checked, and brought to one order of axes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keelnet.data.case import Case
from keelnet.data.cases import Found
from keelnet.data.conventions import MODALITIES, Convention, convention_of
from keelnet.data.grids import AS_IT_IS, Grid, turn_between
from keelnet.data.volumes import Geometry, read_geometry, read_voxels

# What of the brain a tumour takes, at most; a mask of the brain or of its tissues takes all of it.
LARGEST = 0.9
# What of a volume a brain takes, at most, however closely it is cut.
FULLEST = 0.95
# A label from 0 to 4 that a program stored as a scaled uint8 comes back wrong by at most 4 / 255 / 2.
ROUNDING = 0.01
LOOKED_AT = 25  # cases, at most, whose labels are read to find the convention


class ScanWarning(UserWarning):
    """A scan that can be read, and is hardly what was meant."""


@dataclass(frozen=True, eq=False)
class Scan:
    """x (4, right, anterior, superior), float32, in the order of `MODALITIES`; classes (the same, uint8) or None."""

    name: str
    x: NDArray[np.float32]
    classes: NDArray[np.uint8] | None
    geometry: Geometry


def read_scan(case: Case, convention: Convention | None) -> Scan:
    """A case as keelnet computes with it.

    Raises ValueError, one sentence, for whatever cannot be trusted; warns (ScanWarning) of what is unlikely to be meant.
    """
    grid = grid_of(case)
    x = np.stack([grid.towards(path, values) for path, values in _modalities(case)])
    for modality, values in zip(MODALITIES, x, strict=True):
        _check_values(modality, values)
        if doubt := _doubt(values):
            warnings.warn(f"case {case.name}: {modality} {doubt}", ScanWarning, stacklevel=2)
    classes = None
    if case.labels is not None and convention is not None:
        classes = _classes(case.labels, convention, grid)
        _check_extent(case.labels, classes, (x != 0).any(0))
    return Scan(case.name, x, classes, grid.geometry)


def read_labels(path: Path) -> NDArray[np.float32]:
    """The values of a file of labels, whole where only `ROUNDING` keeps them from it; others as they are."""
    values = _volume(read_voxels(path))
    whole = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity is refused by whoever asks what it means
        return np.where(np.abs(values - whole) <= ROUNDING, whole, values)


def settle(found: Found, given: Convention | None = None) -> Found:
    """Find the convention of the labels from names and values, unless it is ``given``. Raises ValueError."""
    labelled = [case for case in found.cases if case.labels is not None]
    if given is not None:
        found.convention, found.reason = given, "as asked"
    elif labelled:
        names = {case.means or case.names for case in labelled}
        if len(names) == 2:
            names -= {"listed"}  # names that say nothing do not contradict the others
        if len(names) > 1:
            raise ValueError(
                "the cases are named by more than one convention; read them one set at a time, or say"
                " what the labels mean with --labels"
            )
        values = [frozenset(_values(case)) for case in _spread(labelled)]
        found.convention, found.reason = convention_of(names.pop(), values)
    return found


def read_scans(found: Found, skip_bad: bool = False) -> Iterator[Scan]:
    """Every case read; a bad one raises ValueError, or is noted in ``found`` and left out."""
    for case in list(found.cases):
        try:
            yield read_scan(case, found.convention)
        except ValueError as reason:
            if not skip_bad:
                raise ValueError(f"case {case.name}: {reason}") from None
            found.refused[case.name] = str(reason)
            found.cases.remove(case)


def _spread(cases: Sequence[Case]) -> list[Case]:
    """Some cases from all over the set: editions that were joined lie one after the other."""
    places = np.linspace(0, len(cases) - 1, min(len(cases), LOOKED_AT))
    return [cases[place] for place in np.unique(places.round().astype(int))]


def _values(case: Case) -> set[int]:
    assert case.labels is not None
    try:
        values = np.unique(read_labels(case.labels))
    except ValueError:  # the case will be refused when it is read
        return set()
    return {int(value) for value in values if value.is_integer() and value > 0}


def grid_of(case: Case) -> Grid:
    """The grid of a case, from the headers of its files alone. Raises ValueError where they differ."""
    first, shape = read_geometry(case.first)
    _check_stacking(case, case.first, shape)
    turns = {case.first: AS_IT_IS}
    for path in case.paths[1:]:
        other, full = read_geometry(path)
        if path != case.labels:
            _check_stacking(case, path, full)
        elif len(full) != 3 and full[3:] != (1,):
            raise ValueError(
                f"{path.name} holds labels of shape {'×'.join(map(str, full))}, not a volume"
            )
        turns[path] = turn_between(case.first, first, path, other)
    return Grid(first, turns)


def _check_stacking(case: Case, path: Path, shape: tuple[int, ...]) -> None:
    wanted = len(MODALITIES) if case.stacked else 1
    volumes = shape[3] if len(shape) == 4 else 1
    if volumes != wanted:
        way = ", or a file for each modality named like <case>_t1ce.nii.gz" if case.stacked else ""
        raise ValueError(f"{path.name} holds {volumes} volumes, {wanted} are wanted{way}")


def _modalities(case: Case) -> list[tuple[Path, NDArray[np.float32]]]:
    """Of each the file that holds it, and its values in that file's order of axes."""
    if case.stacked:
        stacked = read_voxels(case.first)
        return [(case.first, stacked[..., case.order.index(each)]) for each in MODALITIES]
    paths = [case.files[modality] for modality in MODALITIES]
    return [(path, _volume(read_voxels(path))) for path in paths]


def _volume(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values[..., 0] if values.ndim == 4 else values


def _check_values(modality: str, values: NDArray[np.float32]) -> None:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{modality} holds {bad} voxels that are NaN or infinite")
    if not values.any():
        raise ValueError(f"{modality} is 0 everywhere")


def _doubt(values: NDArray[np.float32]) -> str:
    """What makes a modality unlikely to be a scan; empty where nothing does."""
    inside = values[values != 0]
    if inside.min() == inside.max():
        return f"is {inside[0]:g} wherever it is not 0, as a mask is"
    sides = values.shape
    corners = values[:: sides[0] - 1, :: sides[1] - 1, :: sides[2] - 1]
    if corners[0, 0, 0] != 0 and (corners == corners[0, 0, 0]).all():
        return f"is {corners[0, 0, 0]:g} in every corner, which is taken for brain; outside of it 0 is wanted"
    if (share := len(inside) / values.size) > FULLEST:  # noise of the air has no one value
        return f"is 0 in {100 * (1 - share):.1f} % of its voxels, and all others are taken for brain; outside of it 0 is wanted"
    return ""


def _check_extent(path: Path, classes: NDArray[np.uint8], brain: NDArray[np.bool_]) -> None:
    share = float((classes[brain] > 0).mean())
    if share > LARGEST:
        raise ValueError(
            f"{path.name} calls {100 * share:.0f} % of the brain tumour: a mask of the brain or of its tissues, not"
            " labels; move it elsewhere"
        )


def _classes(path: Path, convention: Convention, grid: Grid) -> NDArray[np.uint8]:
    values = read_labels(path)
    try:
        classes = convention.from_file(values)
    except ValueError as reason:
        raise ValueError(f"{path.name}: {reason}") from None
    turned: NDArray[np.uint8] = grid.towards(path, classes).astype(np.uint8)
    return turned
