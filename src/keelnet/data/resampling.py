"""Resampling: volumes on voxels of another size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Space = tuple[int, int, int]
ROUNDING = 1e-5  # of shares: what is equal must not be decided by it
NEAR = 0.02  # a spacing that differs by less than this share is the same one


def space_at(space: Sequence[int], spacing: Sequence[float], wanted: float) -> Space:
    """How many voxels of ``wanted`` mm fill a space of voxels of ``spacing`` mm."""
    sides = [
        side if abs(width / wanted - 1) <= NEAR else max(1, round(side * width / wanted))
        for side, width in zip(space, spacing, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def resampled(
    x: NDArray[np.floating], spacing: Sequence[float], wanted: float
) -> NDArray[np.float32]:
    """x (channels, *space) on voxels of ``wanted`` mm: means where they are coarser, linear where finer.

    Voxels that are 0 in every channel lie outside the brain: they add nothing to their neighbours, and
    a voxel that holds less than half of brain is 0. The same space is cut into another whole number of voxels
    (`space_at`), so a voxel measures old side · width / new side, near ``wanted``.
    """
    space = space_at(x.shape[1:], spacing, wanted)
    values = np.asarray(x, np.float32)
    if space == x.shape[1:]:
        return values
    brain = torch.from_numpy((values != 0).any(0).astype(np.float32))
    share = _moved(brain[None], space)[0]
    result = np.stack([_moved(torch.from_numpy(each)[None], space)[0].numpy() for each in values])
    inside = share.numpy() >= 0.5 - ROUNDING
    return np.where(inside, result / np.maximum(share.numpy(), 0.5), 0).astype(np.float32)


def _moved(values: Tensor, space: Space) -> Tensor:
    """(channels, *space) along one axis after the other."""
    for axis, side in enumerate(space, 1):
        old = values.shape[axis]
        if side != old:
            values = (_means if side < old else _between)(values, axis, side)
    return values


def _means(values: Tensor, axis: int, side: int) -> Tensor:
    """Means over ``side`` equal parts of an axis, in which a voxel counts by how much of it lies in the part.

    torch's adaptive pooling counts a voxel that two parts cut as a whole one in both: sides that do not divide would
    be blurred and moved by up to half a voxel.
    """
    old = values.shape[axis]
    # In steps of 1/side of a voxel everything is a whole number, and shares are exact.
    start = np.arange(side) * old
    first, last = start // side, (start + old - 1) // side
    shape = [1] * values.ndim
    shape[axis] = side
    total: Tensor | None = None
    for step in range(int((last - first).max()) + 1):
        at = np.minimum(first + step, last)
        inside = np.minimum(start + old, (at + 1) * side) - np.maximum(start, at * side)
        share = np.where(first + step <= last, inside / old, 0).astype(np.float32)
        part = values.index_select(axis, torch.from_numpy(at))
        part *= torch.from_numpy(share).view(shape)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _between(values: Tensor, axis: int, side: int) -> Tensor:
    """Linear between the centres of voxels, constant beyond the outermost."""
    line = values.movedim(axis, -1)
    flat = line.reshape(-1, 1, values.shape[axis])
    flat = functional.interpolate(flat, side, mode="linear", align_corners=False)
    return flat.reshape(*line.shape[:-1], side).movedim(-1, axis)


def resampled_classes(
    classes: NDArray[np.uint8], spacing: Sequence[float], wanted: float
) -> NDArray[np.uint8]:
    """Classes on voxels of ``wanted`` mm, by the shares that `resampled` takes of an image.

    A voxel is background (0) where that has more than half of it, else of the class that has most of the rest. Where it
    has just half, which on twice as large voxels is often so, every other voxel is background: otherwise all tumours
    would grow or shrink by several per cent. The nearest voxel's class would not do: where two are equally near, the
    choice moves labels by half a voxel.
    """
    space = space_at(classes.shape, spacing, wanted)
    if space == classes.shape:
        return classes
    present = [int(label) for label in np.unique(classes) if label]
    most = np.zeros(space, np.float32)
    inside = np.zeros(space, np.float32)
    found = np.zeros(space, np.uint8)
    for label in present:  # one after the other: all shares at once would be large
        mine = torch.from_numpy((classes == label).astype(np.float32))
        share = _moved(mine[None], space)[0].numpy()
        inside += share
        found[share > most + ROUNDING] = label
        most = np.maximum(most, share)
    even = np.indices(space, np.uint8).sum(0, np.uint8) % 2 == 0
    least = np.where(even, 0.5 - ROUNDING, 0.5 + ROUNDING)
    return np.where(inside > least, found, 0).astype(np.uint8)


def planes(values: NDArray[np.floating], space: Space) -> Iterator[NDArray[np.float32]]:
    """values (channels, *coarse) linearly interpolated to ``space``: (channels, 1, side, side) one after the other.

    Along the first axis, so that the whole never exists at once.
    """
    coarse = torch.from_numpy(np.asarray(values, np.float32))
    flat = coarse.movedim(1, 0)  # (first axis, channels, side, side)
    if flat.shape[2:] != space[1:]:
        flat = functional.interpolate(flat, space[1:], mode="bilinear", align_corners=False)
    old, new = len(flat), space[0]
    for place in range(new):
        at = min(max((place + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = min(int(at), old - 1)
        share = at - low
        high = min(low + 1, old - 1)
        yield torch.lerp(flat[low], flat[high], share)[:, None].numpy()
