"""A digest of everything that a tile kernel is made of: Numba's cache looks at one file alone."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import cfunc
from numba.core.registry import cpu_target

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
    """`numba.cfunc`, cached on disk where that can be written and what it holds can be read."""

    def compile_(function: Any) -> Any:
        function.__qualname__ += f".{_variant(function)}"
        try:
            return cfunc(signature, cache=True)(function)
        except (OSError, EOFError, pickle.UnpicklingError):  # no room, or a damaged file
            pass
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
        return cfunc(signature)(function)

    return compile_


def _variant(function: Any) -> str:
    """A digest of what decides the code: the closure (sources included), Numba, the processor.

    Numba names its files by the qualified name, numbers the variants of one name without a lock and
    trusts the number: of two processes that compile at once, one could read the other's code.
    """
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    target = cpu_target.target_context.codegen().magic_tuple()
    # JSON refuses what has no text that is the same in every process, such as a function.
    text = json.dumps([cells, numba.__version__, target])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
