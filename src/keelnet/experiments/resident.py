"""Resident memory: what Linux says that processes hold."""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
# What torch and its libraries say, in errors without a class of their own, where memory is refused.
REFUSED = re.compile(
    r"allocate memory|bad_alloc|not enough memory|out of memory|could not create a (primitive|memory)",
    re.IGNORECASE,
)


def says_no_memory(error: Exception) -> bool:
    """Python's own, NumPy's, the system's, and torch's, which come without a class of their own on the CPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    spoken = isinstance(error, RuntimeError) and REFUSED.search(str(error))
    return bool(spoken) or isinstance(error, MemoryError)


def status_of(name: str) -> int:
    """Bytes of this process: VmRSS in memory now, VmHWM at most so far, RssAnon, RssFile, VmData, …"""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"{STATUS} does not say {name}")


def peak_since() -> int:
    """The largest resident size since the last call, or since the start where the system keeps but one peak."""
    peak = status_of("VmHWM")
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak


def room() -> int | None:
    """Bytes of private memory that this process may still take by its limit (RLIMIT_DATA); None without one."""
    if not STATUS.exists():
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if limit == resource.RLIM_INFINITY else max(0, limit - status_of("VmData"))


def private_of_children() -> int:
    """Bytes that the processes started by this one share with no other."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread, or a process, may have ended
            for child in (task / "children").read_text(encoding="utf-8").split():
                total += _private(Path(f"/proc/{child}/smaps_rollup"))
    return total


def _private(rollup: Path) -> int:
    with suppress(OSError):
        return sum(
            1024 * int(line.split()[1])
            for line in rollup.read_text(encoding="utf-8").splitlines()
            if line.startswith(("Private_Dirty:", "Private_Clean:"))
        )
    return 0
