"""Disks that fill: a limit on the size of a file does to a process what a full disk does."""

from __future__ import annotations

import contextlib
import resource


@contextlib.contextmanager
def files_of_at_most(size):
    """A write takes less than it is given, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
