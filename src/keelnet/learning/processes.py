"""Processes: those that train one network together, each on its share of every batch."""

from __future__ import annotations

import atexit
import gc
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from keelnet.data.samples import Share

T = TypeVar("T")


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
    def in_turn(self, make: Callable[[], T]) -> T:
        """``make()`` by the leader, then by the others, who find on disk what it left."""


class Alone(Team):
    """One process."""

    share = Share()

    def wrapped(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        return network

    def total(self, values: Tensor) -> Tensor:
        return values

    def told(self, value: T) -> T:
        return value

    def in_turn(self, make: Callable[[], T]) -> T:
        return make()


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

    def in_turn(self, make: Callable[[], T]) -> T:
        if self.leads:
            made = make()
        distributed.barrier()
        return made if self.leads else make()


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
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        # A thread of the group that lets go of a tensor while the interpreter goes aborts the process.
        atexit.register(_leave)
    return Several(device), device


def _leave() -> None:
    gc.collect()  # DistributedDataParallel, which lies in a cycle, holds the group and so its threads
    if distributed.is_initialized():
        distributed.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun has started these processes again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
