"""Weighing: what a training step keeps for its backward pass, and how far the process grows."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from contestants import INPUTS, Contestant
from machine import available_bytes
from settings import Settings
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from keelnet.analysis.memory import saved_bytes
from keelnet.experiments.resident import peak_since, status_of
from keelnet.learning.regions import region_loss

PROBE = 32  # side of what tells how much a larger one would keep
SMALL = 16  # side of a first step that loads the code and leaves little behind
LARGE = 8 << 20  # bytes of a piece of memory that goes back to the system as soon as it is free
_M_MMAP_THRESHOLD = -3  # glibc's number of that limit


def weighed(contestant: Contestant, settings: Settings) -> dict[str, Any]:
    """Of batch × 4 × side³, in a fresh process: the peak first, for counting runs the network too.

    Where there is no room the process ends with the reason, so that the job is tried again when there is more.

    glibc keeps free pieces of up to 32 MB in its heap, where gaps between them count as resident: as much again as
    what is in use, and another number every time. Here they go back, for everyone alike.
    """
    with suppress(AttributeError):  # another system's library has another allocator
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE)
    network = contestant.network(0, settings.scale, settings.shift)
    count = _held if contestant.environment == "iunets" else _saved
    if contestant.role == "weighed" and (reason := _too_large(network, settings, count)):
        sys.exit(reason)
    step(network, *batch_of(settings.batch, SMALL))
    network.zero_grad(set_to_none=True)
    x, classes = batch_of(settings.batch, settings.side)
    peak = _growth(lambda: step(network, x, classes))
    network.zero_grad(set_to_none=True)
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "saved_bytes": count(network, x),
        "peak_bytes": peak,
    }


def _too_large(
    network: nn.Module, settings: Settings, count: Callable[[nn.Module, Tensor], int]
) -> str:
    """Why the machine cannot hold the step, by what a smaller cube keeps; empty where it can."""
    small = count(network, batch_of(settings.batch, PROBE)[0])
    wanted = 1.5 * small * (settings.side / PROBE) ** 3
    free = available_bytes()
    return (
        f"needs about {wanted / 1e9:.0f} GB, {free / 1e9:.0f} GB are free" if wanted > free else ""
    )


def batch_of(batch: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, INPUTS, side, side, side, generator=generator)
    return x, torch.randint(4, (batch, side, side, side), generator=generator)


def step(network: nn.Module, x: Tensor, classes: Tensor) -> None:
    region_loss(network(x), classes).backward()  # type: ignore[no-untyped-call]


def _saved(network: nn.Module, x: Tensor) -> int:
    return saved_bytes(lambda: network(x), excluded=network.parameters())


def _held(network: nn.Module, x: Tensor) -> int:
    """Storages that the nodes of the graph hold: memcnn's wrapper frees storages in its own lists,
    past the hooks, and only their size now tells."""
    own = {value.untyped_storage()._cdata for value in network.parameters()}
    nodes, seen, kept = [network(x).grad_fn], set(), {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        for value in _tensors_of(node):
            storage = value.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
    return sum(size for address, size in kept.items() if address not in own)


def _tensors_of(node: object) -> Iterator[Tensor]:
    held = [*vars(node).values()] if hasattr(node, "__dict__") else []
    held += [getattr(node, name) for name in dir(node) if name.startswith("_saved")]
    yield from (leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor))


def _growth(run: Callable[[], None]) -> int:
    """Bytes by which the resident set grows at most."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = status_of("VmRSS")
    peak_since()
    run()
    return max(peak_since() - before, 0)
