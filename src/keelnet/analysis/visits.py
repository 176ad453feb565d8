"""Visits: how the parts of a network are called while it reads x."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from keelnet.analysis.calls import Call, answered
from keelnet.dynamics.modules import ModuleField
from keelnet.networks.blocks import Block

Look = Callable[[Call], None]


def visit(
    network: nn.Module,
    parts: Collection[nn.Module],
    x: Tensor,
    look: Look,
    keeping: bool = False,
    again: bool = False,
) -> None:
    """Let the network read x; ``look`` is given the first call of each part (``again``: every one).

    It looks while the network reads, so that what reached other parts need not be kept. Calls without a floating-point
    tensor are passed by. ``keeping``: each when it has answered, so that parts come before what holds them; the
    features may have been changed in place by then, so that only calls that answer in their shape are looked at.
    """
    wanted, looking = set(parts), False

    def stop(
        part: nn.Module, args: tuple[Any, ...], named: dict[str, Any], *answer: object
    ) -> None:
        nonlocal looking
        call = None if looking or part not in wanted else Call.of(part, args, named)
        if call is None:
            return
        if not again:
            wanted.remove(part)
        if keeping and not _keeps(call, answer[0]):
            return
        looking = True  # looking may call parts again
        try:
            look(call)
        finally:
            looking = False

    handles = [
        part.register_forward_hook(stop, with_kwargs=True)
        if keeping
        else part.register_forward_pre_hook(stop, with_kwargs=True)
        for part in parts
    ]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()


def _keeps(call: Call, answer: object) -> bool:
    value = answered(answer, call.y.shape)
    return value is not None and value.shape == call.y.shape


def every_module(network: nn.Module) -> Iterator[nn.Module]:
    """Those of the network, and those that are fields of its blocks, which hold no modules themselves."""
    for module in network.modules():
        yield module
        if isinstance(module, Block) and isinstance(module.field, ModuleField):
            yield from module.field.module.modules()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module inside, and each module's own mode again afterwards.

    By the flags alone: a module's own ``eval()`` may do what ``train()`` does not undo.
    """
    modes = {module: module.training for module in every_module(network)}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
