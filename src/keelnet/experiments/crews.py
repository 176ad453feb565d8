"""Crews: those that make data ready, as many at once as there is memory for."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from keelnet.experiments.ledger import as_text
from keelnet.experiments.resident import room, status_of

MOST = 8  # processes
UNIT = 10**7  # bytes that memory is asked for in


@dataclass(frozen=True)
class Work:
    """What a job does, and the bytes by which whoever does it grows at most."""

    what: str
    growth: int


@contextmanager
def crew(jobs: int, largest: Callable[[], Work]) -> Iterator[Executor]:
    """Processes for this many jobs; what waits is dropped where one fails.

    Where this process' memory is limited all of them together stay within what is left of it; where not even one does,
    this process does the jobs itself. ``largest``: the job that takes most; asked for only then. Raises ValueError where
    there is no room for that either, and where a process ends before it was done.
    """
    left = room()
    count = most = max(1, min(jobs, os.cpu_count() or 1, MOST))
    if jobs and left is not None:
        count = min(most, _affordable(largest(), left, status_of("RssAnon")))
    # Forked processes would inherit OpenMP's threads, with which they can hang.
    context = multiprocessing.get_context("spawn")
    pool: Executor = (
        ProcessPoolExecutor(count, context, None if left is None else _alone)
        if count
        else ThreadPoolExecutor(1)
    )
    try:
        yield pool
    except BrokenExecutor as error:
        way = "with --memory" if left is None else "with less --memory"
        raise ValueError(
            "a process that makes data ready ended before it was done, most likely for want of memory; what is ready is"
            f" kept, so begin again, {way}, by which fewer work at once (a script of your own must begin under"
            ' if __name__ == "__main__":)'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        if not count:
            _give_back()


def _affordable(work: Work, left: int, own: int) -> int:
    """How many processes may work at once: each begins with no more than this one has (``own``); 0 for none."""
    if work.growth > left:
        more = math.ceil((work.growth - left) / UNIT) * UNIT
        raise ValueError(
            f"{work.what} takes {as_text(work.growth)}, and of the memory that was given {as_text(left)} are left for"
            f" it: give it {as_text(more)} more, or begin once without --memory, since what is made ready is kept"
        )
    return left // (own + work.growth)


def _alone() -> None:
    """In a process of a limited crew: threads of its own would take memory that nobody has counted."""
    import torch

    torch.set_num_threads(1)


def _give_back() -> None:
    """What was freed, to the system: the training to come is planned without it."""
    with suppress(AttributeError, OSError):  # another libc than glibc
        ctypes.CDLL(None).malloc_trim(0)
