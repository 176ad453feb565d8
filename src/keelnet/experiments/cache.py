"""The cache: what was made from data once and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """KEELNET_CACHE if set, else keelnet in XDG_CACHE_HOME, else ~/.cache/keelnet."""
    if given := os.environ.get("KEELNET_CACHE"):
        return Path(given)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "keelnet"
