"""Differences: whether a block moves as autograd says that it does."""

from __future__ import annotations

import torch
from torch import Tensor

from keelnet.analysis.calls import Call
from keelnet.analysis.derivatives import differentiated, exact_attention
from keelnet.analysis.linear import linearised

APART = 0.1  # of the larger: kinks and curves within the difference make less
# Of the features' size. What is hidden is missing at every one; what is rounded (TF32, autocast) is apart at
# small ones alone, what is curved at large ones.
STEPS = (1e-3, 1e-2, 1e-1)
BESIDE = 0.03  # of the features' size: within the least step of the kink stay 2 % of them


def require_graph(name: str, call: Call) -> None:
    """Raise ValueError where autograd does not see the answer depend on the features."""
    leaf = call.y[:1].detach().clone().requires_grad_()
    with torch.enable_grad(), exact_attention():
        value = linearised(call)(leaf.clone())
    if value.grad_fn is None:
        raise ValueError(
            f"block {name} answers without a graph, so it has no derivative to measure: its forward runs under no_grad,"
            " detaches its input or does not use it"
        )


def moves_apart(call: Call) -> bool:
    """Whether J v and (f(y + ε v) − f(y − ε v)) / 2ε are `APART` at each of `STEPS`, near the first sample, |v| = 1.

    So they are where a part of the forward hides from autograd (no_grad, detach, a gradient of its own), or jumps.
    Where f is not defined beside the features (a matrix must be positive), nothing can be compared: False.
    """
    y = call.y[:1].detach()
    size = float(y.norm()) or 1.0
    # Features are often exactly 0, where activations have their kink; beside it they have a slope.
    y, v = y + BESIDE * size * _direction(y, 0), _direction(y, 1)
    try:
        told = differentiated(call, y).pushed(v)
        return all(_is_apart(call, y, v, told, step * size) for step in STEPS)
    except (RuntimeError, ValueError, AssertionError):
        return False


def _is_apart(call: Call, y: Tensor, v: Tensor, told: Tensor, step: float) -> bool:
    with torch.no_grad():
        found = call(y + step * v)
        rounding = 16 * torch.finfo(y.dtype).eps * float(found.norm()) / step
        found = (found - call(y - step * v)) / (2 * step)
    least = max(rounding, APART * float(told.norm()), APART * float(found.norm()))
    return float((told - found).norm()) > least


def _direction(y: Tensor, seed: int) -> Tensor:
    """Of size 1."""
    generator = torch.Generator("cpu").manual_seed(seed)
    v = torch.randn(y.shape, generator=generator, device="cpu").to(y)
    return v / v.norm()
