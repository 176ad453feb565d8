"""Threads for compiled kernels: those of torch itself, so that two pools never fight for the processors."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

Launch = Callable[[int, int, int], None]


def launch(kernel: int, block: int, threads: int) -> None:
    """Call the C function at address ``kernel`` with the address ``block``, ``threads`` times at once."""
    if threads == 1:
        _direct()(kernel, block, 1)
    else:
        _parallel()(kernel, block, threads)


def launch_all(kernel: int, block: Any, place: int, threads: int) -> None:
    """The same for a kernel that takes its number from the counter whose address is ``block[place]``."""
    ticket = np.zeros(1, np.int64)
    block[place] = ticket.ctypes.data
    launch(kernel, block.ctypes.data, threads)
    for _ in range(threads - int(ticket[0])):  # OpenMP may give fewer threads than asked
        launch(kernel, block.ctypes.data, 1)


@functools.cache
def _direct() -> Launch:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def call(kernel: int, block: int, threads: int) -> None:
        kind(kernel)(block)

    return call


@functools.cache
def _parallel() -> Launch:
    """torch's OpenMP where it is GNU's; else threads of Python, which cost some 50 µs a call."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except (
            OSError,
            AttributeError,
        ):  # torch loaded another one, or the system has no such flag
            continue
        start = getattr(library, "GOMP_parallel", None)
        if start is not None:
            start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            start.restype = None
            return lambda kernel, block, threads: start(kernel, block, threads, 0)
    return by_python


def by_python(kernel: int, block: int, threads: int) -> None:
    """The same with threads of Python: a call through ctypes lets the others run."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: _direct()(kernel, block, 1), range(threads)))
