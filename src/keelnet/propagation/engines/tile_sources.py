"""A digest of everything that a tile kernel is made of: Numba's cache looks at one file alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

_NAMES = (
    "block_layout",
    "block_parts",
    "blocks_backward",
    "blocks_forward",
    "layout",
    "panels",
    "bends",
    "lanes",
    "memory",
    "microkernels",
    "tile_parts",
    "tiles_forward",
    "tiles_backward",
)


def digest() -> str:
    """Of the sources of the kernels."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / f"{n}.py").read_bytes() for n in _NAMES)).hexdigest()
