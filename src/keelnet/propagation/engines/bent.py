"""f(x + u) beside the layers of a propagation: bias and activation in one pass, and one pass back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from keelnet.dynamics.activations import Activation
from keelnet.propagation.engines.choice import fused, watched
from keelnet.propagation.engines.execution import transformed
from keelnet.propagation.engines.passes import Passes, as_rows
from keelnet.propagation.engines.slopes import BY_VALUE

WORTH = 1 << 14  # numbers, below which torch's own operations take less than the call


def bent(x: Tensor, bias: Tensor, activation: Activation, channel_axis: int) -> Tensor:
    """f(x + u), u (channels,), x with its channels along ``channel_axis``; differentiable any number of times.

    In one compiled pass where processor and activation allow it; the value then has its channels last in
    memory, where the blocks want them.
    """
    passes = _passes(x, bias, activation)
    if passes is not None:
        value: Tensor = _Bent.apply(x, bias, passes, activation.name, channel_axis)  # type: ignore[no-untyped-call]
        return value
    return activation(x + _beside(bias, x, channel_axis))


def _beside(bias: Tensor, x: Tensor, channel_axis: int) -> Tensor:
    sides = [1] * x.ndim
    sides[channel_axis] = -1
    return bias.reshape(sides)


def _passes(x: Tensor, bias: Tensor, activation: Activation) -> Passes | None:
    """The compiled passes; None where torch's operations are to do it."""
    if x.device.type != "cpu" or x.numel() < WORTH or x.dtype not in (torch.float32, torch.float64):
        return None
    if x.dtype != bias.dtype or not fused() or watched((x, bias)) is not None:
        return None
    if not activation.is_known:
        return None
    passes = Passes(activation, None, x.dtype)
    return passes if passes.native and passes.keeps_value else None


class _Bent(torch.autograd.Function):
    """The pass as one node of the graph, which keeps the value alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, passes: Passes, name: str, channel_axis: int
    ) -> Tensor:
        given = x.detach().resolve_neg().movedim(channel_axis, -1).contiguous()
        # Cut off from what it is a view of: torch lets no view made in here be changed in place.
        value = torch.empty_like(given).movedim(-1, channel_axis).data
        rows = as_rows(value, channel_axis)
        passes.bend(given.view(rows.shape), bias.detach(), None, None, rows)
        ctx.save_for_backward(value)
        ctx.passes, ctx.name, ctx.channel_axis = passes, name, channel_axis
        return value

    @staticmethod
    def backward(ctx: Any, costate: Tensor) -> tuple[Tensor | None, ...]:
        (value,) = ctx.saved_tensors
        axis = ctx.channel_axis
        if torch.is_grad_enabled() or transformed((costate,)):
            pulled = BY_VALUE[ctx.name](value) * costate
            others = [at for at in range(value.ndim) if at != axis % value.ndim]
            return pulled, pulled.sum(others), None, None, None
        # Hooks on what is saved may have moved its channels.
        kept = value.movedim(axis, -1).contiguous()
        pulled, sums = torch.empty_like(kept), kept.new_zeros(kept.shape[-1])
        given = costate.resolve_neg().movedim(axis, -1).contiguous()
        ctx.passes.pull(*(each.view(-1, len(sums)) for each in (kept, given, pulled)), sums)
        return pulled.movedim(-1, axis), sums, None, None, None
