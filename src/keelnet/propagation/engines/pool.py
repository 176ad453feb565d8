"""Large buffers that are used again: fresh memory costs a page fault for every 4 KiB that is touched."""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 20  # below, the allocator of torch keeps memory itself
SHARE = 8  # an eighth of the machine's memory may wait for its next use
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
PROCESSOR = torch.device("cpu")
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.uint16}


def _limit() -> int:
    """Bytes that may wait, at most."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        machine = SHARE << 28
    return min(machine, *_allotted()) // SHARE


def _allotted() -> Iterator[int]:
    """What the control groups of this process may take of the machine, where they say so."""
    for path in _limits():
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():  # else "max"
            yield int(text)
    yield 1 << 62


def _limits() -> Iterator[Path]:
    """Where the limit of this process's group and of each above it may stand, in both versions.

    A container may see its own group at the root, whatever path the process is told.
    """
    lines = ["0::/", "0:memory:/"]
    with suppress(OSError):  # a system without such groups
        lines += os.fsdecode(OWN_CGROUPS.read_bytes()).splitlines()
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            root, name = CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / group.lstrip("/")
        yield from (each / name for each in (folder, *folder.parents) if each.is_relative_to(root))


KEPT = _limit()


def _fresh(size: int) -> Any:
    """New memory, private: what a forked process writes into its copy is not seen here."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # a system that does not fork
        return mmap.mmap(-1, size)
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


class _Lease(np.ndarray):
    """A buffer in use; when torch lets go of its storage, the buffer goes back to the pool."""


class _Pool:
    """Buffers by size, the last given back first."""

    def __init__(self) -> None:
        # Re-entrant: collecting garbage inside the lock may give a buffer back.
        self._lock = threading.RLock()
        self._free: list[Any] = []

    def take(self, size: int) -> Any:
        """Bytes that hold ``size``: a waiting buffer that is not much larger, or a new one."""
        with self._lock:
            for at in reversed(range(len(self._free))):
                if size <= len(self._free[at]) <= 1.25 * size:
                    return self._free.pop(at)
        whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            return _fresh(whole)
        except OSError:
            with self._lock:  # what waits here may be what is missing
                self._free.clear()
        try:
            return _fresh(whole)
        except OSError as error:
            raise MemoryError(f"cannot allocate memory: {whole:,} bytes ({error})") from None

    def give_back(self, buffer: Any) -> None:
        """Keep the buffer for its next use; the oldest ones leave when there are too many."""
        with self._lock:
            self._free.append(buffer)
            while sum(len(each) for each in self._free) > KEPT:
                self._free.pop(0)


_POOL = _Pool()


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device = PROCESSOR) -> Tensor:
    """An uninitialised tensor; large ones come from the pool and return to it by themselves.

    Other devices than the processor have torch's own pool.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < SMALL or dtype not in _NUMPY or device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    buffer = _POOL.take(size)
    lease = np.frombuffer(buffer, _NUMPY[dtype], count).view(_Lease)
    weakref.finalize(lease, _POOL.give_back, buffer).atexit = False
    flat = torch.from_numpy(lease)
    return (flat if flat.dtype == dtype else flat.view(dtype)).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device = PROCESSOR) -> Tensor:
    """The same, filled with zeros."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    if math.prod(shape) * dtype.itemsize < SMALL and dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.zeros(shape, _NUMPY[dtype]))  # wakes no thread, touches no page
    return empty(shape, dtype).zero_()
