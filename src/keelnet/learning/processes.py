"""Processes: those that train one network together, each on its share of every batch."""

from __future__ import annotations

import atexit
import gc
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from keelnet.data.samples import Share
from keelnet.learning.breakdown import BreakdownError, is_breakdown
from keelnet.learning.launches import meeting_place, restarts_left

T = TypeVar("T")

# How long one waits for another: the leader validates and makes data ready alone.
PATIENCE = timedelta(hours=1)
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)


class SharedError(ValueError):
    """What all processes raise together, so that one of them can say it for all."""


class SharedBreakdownError(SharedError, BreakdownError):
    """A breakdown that all processes raise together, wherever it was met."""


class LostError(ConnectionError):
    """Another process of the team is gone; all that are left raise it."""


def is_shared(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is everyone's."""
    while error is not None:
        if isinstance(error, SharedError | LostError):
            return True
        error = error.__cause__
    return False


class Team(ABC):
    """The processes of a descent. All make the same calls in the same order.

    share: what this process takes of each batch; the first one leads: it validates and writes.
    """

    share: Share

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates and writes."""
        return self.share.rank == 0

    @abstractmethod
    def wrapped(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """The forward pass whose backward leaves the mean gradient of all processes."""

    @abstractmethod
    def total(self, values: Tensor) -> Tensor:
        """The sum of everyone's values."""

    @abstractmethod
    def told(self, value: T) -> T:
        """What the leader's value is."""

    @abstractmethod
    def agree(self, failure: Exception | None) -> None:
        """Each says its failure; if there is one, all raise the first (`SharedError`, of a breakdown its own kind)."""

    @abstractmethod
    def by_leader(self, make: Callable[[], T]) -> T:
        """``make()`` by the leader alone: its value is everyone's, its ValueError or OSError too (`SharedError`)."""

    @abstractmethod
    def in_turn(self, make: Callable[[], T]) -> T:
        """``make()`` by the leader, then by the others, who find on disk what it left.

        Where one of them raises ValueError or OSError all do (`SharedError`).
        """

    @abstractmethod
    def watched(self) -> AbstractContextManager[None]:
        """Within the block the end of another process is a `LostError`."""


class Alone(Team):
    """One process."""

    share = Share()

    def wrapped(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        return network

    def total(self, values: Tensor) -> Tensor:
        return values

    def told(self, value: T) -> T:
        return value

    def agree(self, failure: Exception | None) -> None:
        if failure is not None:
            raise failure

    def by_leader(self, make: Callable[[], T]) -> T:
        return make()

    def in_turn(self, make: Callable[[], T]) -> T:
        return make()

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()


class Several(Team):
    """The processes of torch.distributed, whose group must exist."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.share = Share(distributed.get_rank(), distributed.get_world_size())

    def wrapped(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)

    def total(self, values: Tensor) -> Tensor:
        summed = values.detach().clone().to(self.device)
        distributed.all_reduce(summed)
        return summed.to(values.device)

    def told(self, value: T) -> T:
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def agree(self, failure: Exception | None) -> None:
        said: list[tuple[str, bool] | None] = [None] * self.share.size
        own = None if failure is None else (str(failure), is_breakdown(failure))
        distributed.all_gather_object(said, own)
        for text, broken in filter(None, said):
            raise (SharedBreakdownError if broken else SharedError)(text) from failure

    def by_leader(self, make: Callable[[], T]) -> T:
        return self.told(self._made(make, by=self.leads))  # type: ignore[return-value]

    def in_turn(self, make: Callable[[], T]) -> T:
        first = self._made(make, by=self.leads)
        second = self._made(make, by=not self.leads)
        return first if self.leads else second  # type: ignore[return-value]

    def _made(self, make: Callable[[], T], by: bool) -> T | None:
        """``make()`` if it is ``by`` this process; all wait until it is done, and all raise if one cannot."""
        made: T | None = None
        failure: Exception | None = None
        try:
            made = make() if by else None
        except (ValueError, OSError) as error:
            failure = error
        self.agree(failure)
        return made

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and not _LOST.search(str(error)):
                raise
            then = "torchrun starts all again" if restarts_left() else "go on with --resume"
            raise LostError(
                f"another process of this training was lost: see what it said; {then}"
            ) from error


def team_of(device: torch.device) -> tuple[Team, torch.device]:
    """The team that torchrun's variables tell of, and this process' own device; `Alone` without them.

    Joins the group: nccl on CUDA devices, each process on the one of its local rank, else gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = meeting_place(rank, size, PATIENCE)
        distributed.init_process_group(
            backend, timeout=PATIENCE, store=store, rank=rank, world_size=size
        )
        # A thread of the group that lets go of a tensor while the interpreter goes aborts the process.
        atexit.register(_leave)
    return Several(device), device


def _leave() -> None:
    gc.collect()  # DistributedDataParallel, which lies in a cycle, holds the group and so its threads
    if distributed.is_initialized():
        distributed.destroy_process_group()


def speaks_for(error: BaseException) -> bool:
    """Whether this process says the error: each its own; what all raise, the first one on each machine.

    Before the group is joined all do the same, so that errors are everyone's.
    """
    common = is_shared(error) or not (distributed.is_available() and distributed.is_initialized())
    return os.environ.get("LOCAL_RANK", "0") == "0" or not common
