"""Whether Numba can be used here."""

from __future__ import annotations

import functools
import importlib


@functools.cache
def has_numba() -> bool:
    """Whether it is installed and can be imported; an installation may be broken in many ways."""
    try:
        importlib.import_module("numba")
    except Exception:
        return False
    return True
