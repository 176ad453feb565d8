"""Differences: whether a block moves as autograd says that it does."""

from __future__ import annotations

import torch
from torch import Tensor

from keelnet.analysis.calls import Call
from keelnet.analysis.derivatives import differentiated, exact_attention
from keelnet.analysis.linear import linearised

APART = 0.1  # of the larger: kinks and curves within the difference make less
STEP = 1e-3  # of the features' size: between rounding and curvature in float32
BESIDE = 30  # steps from the features: within a step of the kink stay 2 % of them


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
    """Whether J v and (f(y + ε v) − f(y − ε v)) / 2ε are `APART`, near the first sample, for one v of size 1.

    So they are where a part of the forward hides from autograd (no_grad, detach, a gradient of its own), or jumps.
    """
    y = call.y[:1].detach()
    step = STEP * (float(y.norm()) or 1.0)
    # Features are often exactly 0, where activations have their kink; beside it they have a slope.
    y, v = y + BESIDE * step * _direction(y, 0), _direction(y, 1)
    with torch.no_grad():
        found = call(y + step * v)
        rounding = 16 * torch.finfo(y.dtype).eps * float(found.norm()) / step
        found = (found - call(y - step * v)) / (2 * step)
    told = differentiated(call, y).pushed(v)
    least = max(rounding, APART * float(told.norm()), APART * float(found.norm()))
    return float((told - found).norm()) > least


def _direction(y: Tensor, seed: int) -> Tensor:
    """Of size 1."""
    generator = torch.Generator("cpu").manual_seed(seed)
    v = torch.randn(y.shape, generator=generator, device="cpu").to(y)
    return v / v.norm()
