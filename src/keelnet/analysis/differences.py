"""Differences: whether a block moves as autograd says that it does."""

from __future__ import annotations

import torch
from torch import Tensor

from keelnet.analysis.calls import Call
from keelnet.analysis.derivatives import differentiated, exact_attention, nodes_of, paired
from keelnet.analysis.linear import linearised
from keelnet.analysis.singular import Derivative, direction

APART = 0.1  # of the larger: kinks and curves within the difference make less
# Of the features' size. What is hidden is missing at every one; what is rounded (TF32, autocast) is apart at
# small ones alone, what is curved at large ones.
STEPS = (1e-3, 1e-2, 1e-1)
BESIDE = 0.03  # of the features' size: within the least step of the kink stay 2 % of them


def require_graph(name: str, call: Call) -> None:
    """Raise ValueError where autograd does not see the answer depend on the features, or not without its parameters."""
    leaf = call.y[:1].detach().clone().requires_grad_()
    with torch.enable_grad(), exact_attention():
        value = linearised(call)(leaf.clone())
    if value.grad_fn is None:
        raise ValueError(
            f"block {name} answers without a graph, so it has no derivative to measure: its forward runs under no_grad,"
            " detaches its input or does not use it"
        )
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes_of(value)):
        raise ValueError(
            f"block {name} is checkpointed with use_reentrant=True, which allows no derivative by its input alone; call"
            " torch.utils.checkpoint with use_reentrant=False"
        )


def moves_apart(call: Call) -> bool:
    """Whether J v and (f(y + ε v) − f(y − ε v)) / 2ε are `APART` at each of `STEPS`, near the first sample, |v| = 1.

    So they are where a part of the forward hides from autograd (no_grad, detach, a gradient of its own), or jumps.
    Where J v is a difference itself, the second is compared along its direction w by ⟨Jᵀ w, v⟩. Where f is not defined beside the features (a matrix must be positive), nothing can be compared: False.
    """
    y = call.y[:1].detach()
    size = float(y.norm()) or 1.0
    # Features are often exactly 0, where activations have their kink; beside it they have a slope.
    y, v = y + BESIDE * size * direction(y, 0), direction(y, 1)
    try:
        derivative = differentiated(call, y)
        return all(_is_apart(call, derivative, v, step * size) for step in STEPS)
    except (RuntimeError, ValueError, AssertionError):
        return False


def _is_apart(call: Call, derivative: Derivative, v: Tensor, step: float) -> bool:
    y = derivative.y.detach()
    with torch.no_grad():
        found = call(y + step * v)
        rounding = 16 * torch.finfo(y.dtype).eps * float(found.norm()) / step
        found = (found - call(y - step * v)) / (2 * step)
    if derivative.certain:
        told = derivative.pushed(v)
    else:
        w = found / found.norm().clamp(min=torch.finfo(found.dtype).tiny)
        told = w * paired(derivative.pulled(w), v)
    least = max(rounding, APART * float(told.norm()), APART * float(found.norm()))
    return float((told - found).norm()) > least
