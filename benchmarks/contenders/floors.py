"""Floors: the products or the convolutions alone, by every library at hand.

A method is "kind library": kind ``apply`` (y K of every layer), ``adjoint`` (z Kᵀ) or ``weight``
(yᵀ z, the gradient of K). What a pass must at least cost is a sum of such kinds (``plan.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from cases import Case, Pass
from torch import Tensor

from contenders.task import RefusedError, Task

torch.set_num_threads(2)

DENSE = ("torch", "onednn", "numpy")
CONVOLUTION = ("channels_last", "contiguous", "onednn")

# Below this size a convolution of one sample leaves oneDNN for a slow path of torch.
_SMALL = 20480


class Products(Task):
    """One kind of product, once a layer."""

    def __init__(self, one: Callable[[int], object], depth: int, note: str = "") -> None:
        self.one, self.depth, self.note = one, depth, note

    def run(self) -> None:
        with torch.no_grad():
            for layer in range(self.depth):
                self.one(layer)

    def outcome(self, cotangent: np.ndarray) -> dict[str, np.ndarray] | None:
        return None


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> Products:
    kind, library = method.split()
    if library not in (CONVOLUTION if case.dim else DENSE):
        raise RefusedError("of another kind of case")
    random = torch.Generator().manual_seed(0)

    def state(channels: int) -> Tensor:
        return torch.randn(case.batch, channels, *case.space, generator=random)

    y, z = state(case.inputs), state(case.outputs)
    weight = torch.from_numpy(numbers["weight"])
    if case.dim:
        return _convolutions(case, kind, library, y, z, weight)
    if library == "numpy":
        return Products(_with_numpy(kind, y, z, weight), case.depth)
    if library == "torch":
        return Products(_with_torch(kind, y, z, weight), case.depth)
    return Products(_with_onednn(kind, y, z, weight), case.depth)


def _with_torch(kind: str, y: Tensor, z: Tensor, weight: Tensor) -> Callable[[int], object]:
    if kind == "apply":
        return lambda layer: torch.mm(y, weight[layer], out=z)
    if kind == "adjoint":
        return lambda layer: torch.mm(z, weight[layer].T, out=y)
    gradient = torch.empty(weight.shape)
    return lambda layer: torch.mm(y.T, z, out=gradient[layer])


def _with_numpy(kind: str, y: Tensor, z: Tensor, weight: Tensor) -> Callable[[int], object]:
    left, right, matrices = y.numpy(), z.numpy(), weight.numpy()
    if kind == "apply":
        return lambda layer: np.dot(left, matrices[layer], out=right)
    if kind == "adjoint":
        return lambda layer: np.dot(right, matrices[layer].T, out=left)
    gradient = np.empty(weight.shape, np.float32)
    return lambda layer: np.dot(left.T, right, out=gradient[layer])


def _with_onednn(kind: str, y: Tensor, z: Tensor, weight: Tensor) -> Callable[[int], object]:
    """Private to torch: ``x @ w.T``; every operand laid out as it likes best, outside the timing."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        raise RefusedError("this torch has no oneDNN linear")
    linear = torch.ops.mkldnn._linear_pointwise
    if kind == "apply":
        turned = weight.transpose(1, 2).contiguous()
        return lambda layer: linear(y, turned[layer], None, "none", [], "")
    if kind == "adjoint":
        return lambda layer: linear(z, weight[layer], None, "none", [], "")
    left, right = y.T.contiguous(), z.T.contiguous()
    return lambda layer: linear(left, right, None, "none", [], "")


def _convolutions(
    case: Case, kind: str, library: str, y: Tensor, z: Tensor, weight: Tensor
) -> Products:
    """Two samples at half the depth where one sample alone would fall to the slow path."""
    note, depth = "", case.depth
    if (
        case.batch == 1
        and library != "onednn"
        and y[0].numel() // case.side ** (case.dim - 2) <= _SMALL
    ):
        y, z, depth = torch.cat([y, y]), torch.cat([z, z]), max(case.depth // 2, 1)
        note = "two samples at once, half the layers"
    dim, ones = case.dim, [1] * case.dim
    last = torch.channels_last if dim == 2 else torch.channels_last_3d
    layout = torch.contiguous_format if library == "contiguous" else last
    y, z = y.contiguous(memory_format=layout), z.contiguous(memory_format=layout)
    if kind == "weight":
        if library == "onednn":
            raise RefusedError("torch offers no direct call")
        back = torch.ops.aten.convolution_backward
        zeros, mask = [0] * dim, [False, True, False]
        sizes = (None, ones, ones, ones, False, zeros, 1, mask)
        return Products(lambda layer: back(z, y, weight[layer], *sizes), depth, note)
    if kind == "adjoint":  # the same arithmetic as a convolution with the stencil flipped
        axes = tuple(range(3, 3 + dim))
        y, weight = z, weight.transpose(1, 2).flip(axes).contiguous()
    if library == "onednn":
        convolve = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
        if convolve is None:
            raise RefusedError("this torch has no oneDNN convolution")
        return Products(
            lambda layer: convolve(y, weight[layer], None, ones, ones, ones, 1, "none", [], ""),
            depth,
        )
    call = torch.nn.functional.conv2d if dim == 2 else torch.nn.functional.conv3d
    return Products(lambda layer: call(y, weight[layer], padding=1), depth, note)
