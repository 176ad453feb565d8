"""Whether Numba can be used here."""

from __future__ import annotations

import functools
import importlib

NO_NUMBA = "Numba cannot be imported, or is switched off"


@functools.cache
def has_numba() -> bool:
    """Whether it can be imported, however an installation may be broken, and NUMBA_DISABLE_JIT is not set."""
    try:
        return not importlib.import_module("numba").config.DISABLE_JIT
    except Exception:
        return False
