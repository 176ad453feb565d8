"""PyTorch as one writes it: a loop over layers, with plain autograd or √depth checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from cases import Case, Pass
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from contenders.torch_task import TorchTask, arranged, leaves

State = tuple[Tensor, ...]
Layer = Callable[[State, Tensor], State]

CONVOLUTIONS = {
    2: (functional.conv2d, functional.conv_transpose2d),
    3: (functional.conv3d, functional.conv_transpose3d),
}


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    return looped(case, numbers, method, pass_, layer_of(case))


def looped(
    case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass, layer: Layer
) -> TorchTask:
    """All layers by ``layer``; channels last where there is a grid."""
    y0, weights, cotangent = leaves(case, numbers, pass_)

    def forward() -> Tensor:
        state = begun(case, y0)
        length = math.isqrt(case.depth - 1) + 1
        if method == "checkpoint" and torch.is_grad_enabled():
            for first in range(0, case.depth, length):
                window = weights[first : first + length]
                state = checkpoint(_segment, layer, state, *window, use_reentrant=False)
        else:
            state = _segment(layer, state, *weights)
        return torch.cat(state, dim=1) if case.split else state[0]

    return TorchTask(forward, y0, weights, cotangent, pass_)


def begun(case: Case, y0: Tensor) -> State:
    """(y,) or (y, z); the halves of a split y0 each contiguous."""
    if case.scheme == "euler":
        return (y0,)
    if case.split:
        return tuple(map(arranged, torch.split(y0, [case.inputs, case.outputs], dim=1)))
    return y0, y0.new_zeros(case.batch, case.outputs)


def _segment(layer: Layer, state: State, *weights: Tensor) -> State:
    for weight in weights:
        state = layer(state, weight)
    return state


def layer_of(case: Case) -> Layer:
    """One layer of the case."""
    h = case.step_size
    if case.dim:
        apply, adjoint = CONVOLUTIONS[case.dim]

        def layer(state: State, weight: Tensor) -> State:
            y, z = state
            z = torch.sub(z, torch.tanh(apply(y, weight, padding=1)), alpha=h)
            return torch.add(y, torch.tanh(adjoint(z, weight, padding=1)), alpha=h), z

    elif case.scheme == "euler":

        def layer(state: State, weight: Tensor) -> State:
            (y,) = state
            return (torch.add(y, torch.tanh(y @ weight), alpha=h),)

    else:

        def layer(state: State, weight: Tensor) -> State:
            y, z = state
            z = torch.sub(z, torch.tanh(y @ weight), alpha=h)
            return torch.add(y, torch.tanh(z @ weight.T), alpha=h), z

    return layer
