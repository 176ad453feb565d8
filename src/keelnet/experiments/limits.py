"""Limits: a run that is held within the memory it was given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from keelnet.experiments.fits import require_within
from keelnet.experiments.ledger import as_text
from keelnet.experiments.plan import MARGIN, Plan
from keelnet.experiments.problems import device_named, network_of
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.resident import STATUS, says_no_memory, status_of
from keelnet.experiments.tasks import Report
from keelnet.learning.processes import team_of
from keelnet.learning.progress import Progress


def limited(
    recipe: Recipe, memory: int, steps: Iterator[Progress], report: Report = lambda line: None
) -> Iterator[Progress]:
    """The steps of a training that has this many bytes; raises ValueError, saying what would fit, before the first.

    Where several processes train together the bytes are those of each, and it is planned for its share of a batch
    within what the gradients that they send leave.
    """
    team, _ = team_of(device_named(recipe.device))
    own = replace(recipe, batch=math.ceil(recipe.batch / team.share.size))
    with team.watched():
        team.in_turn(lambda: _require_more_than_now(memory))
        planned: Plan = team.by_leader(lambda: _planned(own, memory, team.share.size, report))
    return _held(steps, memory, planned.apart)


def _planned(recipe: Recipe, memory: int, processes: int, report: Report) -> Plan:
    if processes == 1:
        return require_within(recipe, memory, report)
    # What is rehearsed is one process, which sends nothing. DistributedDataParallel copies gradients to buckets.
    moved = [value for value in network_of(recipe).parameters() if value.requires_grad]
    buckets = math.ceil((1 + MARGIN) * sum(value.nbytes for value in moved))
    report(
        f"{as_text(buckets)} of the {as_text(memory)} of each process hold the gradients that it sends to the others"
    )
    return require_within(recipe, max(0, memory - buckets), report)


def _require_more_than_now(memory: int) -> None:
    if STATUS.exists() and memory <= (own := status_of("VmRSS")):
        raise ValueError(
            f"{as_text(memory)} is less than the {as_text(own)} that the process takes before it trains;"
            " give it more memory"
        )


def _held(steps: Iterator[Progress], memory: int, apart: int) -> Iterator[Progress]:
    with held_within(memory, apart):
        yield from steps


@contextmanager
def held_within(memory: int, apart: int = 0) -> Iterator[None]:
    """Within the block this process does not grow beyond ``memory`` bytes: the system gives it no more.

    apart: bytes of them that are not its own: files of libraries, other processes (`Plan.apart`). What is limited
    is private memory that can be written (RLIMIT_DATA); pages reserved so far and never touched, stacks of
    threads above all, do not count. Raises ValueError where the process is larger already, where the block needs
    more, and on systems without such a limit.
    """
    if not STATUS.exists():
        raise ValueError("only Linux holds a process within its memory; go without --memory here")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    private, own = status_of("VmData"), status_of("RssAnon")
    limit = memory - apart + private - own
    if limit <= private:
        raise ValueError(
            f"the process alone takes {as_text(own + apart)}, {as_text(memory)} were given; give it more"
        )
    bounds = [limit, *(each for each in (soft, hard) if each != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not says_no_memory(error):
            raise
        raise ValueError(
            f"the run reached the {as_text(memory)} that it was given; plan again (keelnet plan) or give it more"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
