"""Adjoining parts: states whose channels lie beside one another in the memory of one tensor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def beside(parts: Sequence[Tensor]) -> bool:
    """Whether the parts follow one another on the last axis of one tensor."""
    first = parts[0]
    if len(parts) < 2 or first.stride(-1) != 1:
        return False
    place = first.storage_offset()
    for part in parts:
        if part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
        if part.storage_offset() != place or part.stride() != first.stride():
            return False
        if part.dtype != first.dtype or part.shape[:-1] != first.shape[:-1]:
            return False
        place += part.shape[-1]
    return True


def whole(parts: Sequence[Tensor]) -> Tensor | None:
    """The contiguous tensor of which these are all channels, without a graph; None if there is none.

    It shares their memory and is no view, so that it can be changed in place.
    """
    if not beside(parts):
        return None
    first = parts[0].data
    shape = (*first.shape[:-1], sum(part.shape[-1] for part in parts))
    joined = first.as_strided(shape, first.stride(), first.storage_offset()).data
    return joined if joined.is_contiguous() else None
