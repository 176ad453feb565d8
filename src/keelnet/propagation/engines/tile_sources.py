"""A digest of everything that a tile kernel is made of: Numba's cache looks at one file alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc

_NAMES = (
    "block_layout",
    "block_parts",
    "blocks_backward",
    "blocks_forward",
    "layout",
    "panels",
    "stages_backward",
    "stages_forward",
    "bends",
    "lanes",
    "memory",
    "microkernels",
    "tile_parts",
    "tile_pull",
    "tiles_forward",
    "tiles_backward",
    "winograd",
    "winograd_kernels",
    "winograd_slots",
    "winograd_tiles",
    "winograd_weights",
)


def digest() -> str:
    """Of the sources of the kernels."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / f"{n}.py").read_bytes() for n in _NAMES)).hexdigest()


def compiled(signature: Any) -> Callable[[Any], Any]:
    """`numba.cfunc`, cached on disk where there is a folder that can be written."""

    def compile_(function: Any) -> Any:
        try:
            return cfunc(signature, cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return cfunc(signature)(function)

    return compile_
