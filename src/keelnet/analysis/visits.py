"""Visits: what reaches the parts of a network while it reads x, and the conditions for looking at it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

Look = Callable[[nn.Module, Tensor], None]


def visit(
    network: nn.Module,
    parts: Collection[nn.Module],
    x: Tensor,
    look: Look,
    keeping: bool = False,
) -> None:
    """Let the network read x; ``look`` is called with each part and the one tensor that first reaches it.

    It looks while the network reads, so that what reached other parts need not be kept. Parts that do not get
    exactly one tensor are passed by. ``keeping``: only at parts that keep the shape, each when it has answered, so
    that parts come before what holds them; the tensor may have been changed in place by then.
    """
    wanted = set(parts)

    def stop(part: nn.Module, inputs: tuple[object, ...], *answer: object) -> None:
        if part in wanted and len(inputs) == 1 and isinstance(inputs[0], Tensor):
            wanted.remove(part)  # before it looks, which may call the part again
            if not keeping or _shape(answer[0]) == inputs[0].shape:
                look(part, inputs[0].detach())

    handles = [
        part.register_forward_hook(stop) if keeping else part.register_forward_pre_hook(stop)
        for part in parts
    ]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()


def _shape(answer: object) -> torch.Size | None:
    return answer.shape if isinstance(answer, Tensor) else None


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module inside, and each module's own mode again afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def require_finite(x: Tensor) -> None:
    """Raise ValueError unless x is a tensor of finite floating-point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not bool(x.isfinite().all()):
        raise ValueError("x must be a tensor of finite floating-point numbers, one sample a row")


def require_readable(network: nn.Module, x: Tensor) -> None:
    """Raise ValueError for an x that the network cannot read: of another device, not finite, of no sample."""
    if isinstance(x, Tensor):
        homes = {own.device for own in chain(network.parameters(), network.buffers())}
        if homes and x.device not in homes:
            home = str(next(iter(homes)))
            raise ValueError(f"x is on {x.device}, but the network on {home}; use x.to({home!r})")
    require_finite(x)
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(
            f"x must hold at least one sample, (samples, channels, …); got {tuple(x.shape)}"
        )


def require_repeatable(network: nn.Module, x: Tensor) -> None:
    """Raise ValueError where a network gives another value the second time, though it is in evaluation mode."""
    with torch.no_grad():
        before = torch.get_rng_state()
        first = network(x[:1])
        if torch.equal(before, torch.get_rng_state()):
            return  # it drew no random numbers
        again = network(x[:1])
    if not _alike(first, again):
        raise ValueError(
            f"{type(network).__name__} draws random numbers in evaluation mode too (functional dropout?), so it has"
            " no derivative to measure; turn them off, for example with dropout(x, training=self.training)"
        )


def _alike(first: object, second: object) -> bool:
    pairs = zip(trees.tree_leaves(first), trees.tree_leaves(second), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))
