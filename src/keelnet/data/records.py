"""Records: the binary formats of CIFAR-10, CIFAR-100 and STL-10, images of 3 bytes a pixel without a header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keelnet.data.idx import content_of

Pictures = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # (images, 3, H, W) and (images,)


def read_cifar(paths: Sequence[Path], label_bytes: int, classes: int) -> Pictures:
    """Images of 32 × 32 and their labels: records of ``label_bytes`` labels, then 3 planes of 1024.

    The last label counts: CIFAR-10 has one, CIFAR-100 a coarse and a fine one. Raises ValueError
    for a file that does not hold whole records and for labels of ``classes`` or more, which a file of
    another set gives.
    """
    size = label_bytes + 3 * 32 * 32
    parts = [_records(path, size) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        _require_labels(path, part[:, label_bytes - 1], 0, classes)
    every = np.concatenate(parts)
    return every[:, label_bytes:].reshape(-1, 3, 32, 32), every[:, label_bytes - 1]


def read_stl(images: Path, labels: Path) -> Pictures:
    """Images of 96 × 96, stored column by column, and their labels, stored as 1 … 10."""
    found = _records(images, 3 * 96 * 96)
    named = np.frombuffer(content_of(labels), np.uint8)
    if len(named) != len(found):
        raise ValueError(
            f"{labels} must hold as many labels as {images.name} images, {len(found)}, got {len(named)};"
            " one of them is cut off or of another part"
        )
    _require_labels(labels, named, 1, 11)
    return found.reshape(-1, 3, 96, 96).swapaxes(2, 3), named - 1


def _records(path: Path, size: int) -> NDArray[np.uint8]:
    """(records, size)."""
    content = np.frombuffer(content_of(path), np.uint8)
    if len(content) == 0 or len(content) % size:
        raise ValueError(
            f"{path} must hold records of {size} bytes, got {len(content)} bytes, which are"
            f" {len(content) / size:.2f} of them; it is cut off or of another format"
        )
    return content.reshape(-1, size)


def _require_labels(path: Path, labels: NDArray[np.uint8], first: int, end: int) -> None:
    if labels.min() < first or labels.max() >= end:
        raise ValueError(
            f"labels in {path} must lie in {first}..{end - 1}, got {labels.min()}..{labels.max()};"
            " it is damaged or of another format"
        )
