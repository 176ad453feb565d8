"""Connections: what stands between blocks: openings, changes of width and of resolution."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from keelnet.dynamics.activations import Activation, ActivationChoice, activation_from
from keelnet.dynamics.controls import drawn
from keelnet.dynamics.kernels import ConvKernel, DenseKernel, Kernel, require_count
from keelnet.dynamics.norms import Norm
from keelnet.propagation.engines.bent import bent


class Affine(nn.Module):
    """x ↦ f(norm(K x) · scale + bias): an opening, or a change of width (stencil 1).

    ``activation`` None leaves out f; ``norm`` None leaves out the norm and its scale. dim 0 is a
    dense map of (batch, channels), 1 … 3 a convolution of (batch, channels, *space).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dim: int = 0,
        stencil: int = 1,
        activation: ActivationChoice | None = None,
        norm: Norm | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.kernel: Kernel = kernel_of(dim, inputs, outputs, stencil)
        self.activation = None if activation is None else activation_from(activation)
        for name, part in self.activation.held().items() if self.activation else ():
            setattr(self, f"{name}_module", part)
        self.norm = norm
        spread = 1 / math.sqrt(self.kernel.fan_in)
        first = drawn(self.kernel.weight_shape, generator) * spread
        self.weight = nn.Parameter(first)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = nn.Parameter(torch.ones(outputs)) if norm is not None else None

    def forward(self, x: Tensor) -> Tensor:
        self.kernel.check_state(x, self.kernel.inputs)
        x = self.kernel.apply(self.weight, x)
        if self.norm is not None and self.scale is not None:
            x = self.norm.apply(x, self.kernel.channel_axis) * self.kernel.per_channel(self.scale)
        activation = self._activation_of_now()
        if activation is None:
            return x + self.kernel.per_channel(self.bias)
        return bent(x, self.bias, activation, self.kernel.channel_axis)

    def _activation_of_now(self) -> Activation | None:
        """With the module that stands in its place of now, where it is one."""
        own = self.activation
        if own is None or not own.held():
            return own
        module = self.get_submodule("activation_module")
        return own if module is own.function else own.holding(module)

    def extra_repr(self) -> str:
        return f"{self.kernel}"


def kernel_of(dim: int, inputs: int, outputs: int, stencil: int) -> Kernel:
    """Dense for dim 0, else a convolution."""
    if dim == 0:
        return DenseKernel(inputs, outputs)
    return ConvKernel(inputs, dim, stencil, outputs)


class Augment(nn.Module):
    """Appends zero channels up to ``width``: room for paths to cross, without parameters.

    (batch, channels, …) → (batch, width, …). Raises ValueError for a width below 1 and features of more channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        require_count("width", width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        missing = self.width - x.shape[1]
        if missing < 0:
            raise ValueError(
                f"cannot augment {x.shape[1]} channels to {self.width}; use at least {x.shape[1]}"
            )
        return functional.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))


_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Pool(nn.Module):
    """Averages blocks of ``factor`` points along each space axis.

    Raises ValueError where the space is not divisible: points at the border would be lost.
    """

    def __init__(self, dim: int, factor: int = 2) -> None:
        super().__init__()
        require_count("factor", factor)
        self.dim, self.factor = _require_dim(dim), factor

    def forward(self, x: Tensor) -> Tensor:
        _require_space(x, self.dim)
        if any(size % self.factor for size in x.shape[2:]):
            raise ValueError(
                f"pooling by {self.factor} needs a divisible space, got {tuple(x.shape[2:])}; pad the input"
            )
        # Sums of slices, channels last: the gradient is then written as the states lie in memory. By
        # torch's sums over an axis, channels first, a pass took six times as long.
        x = x.movedim(1, -1)
        for axis in range(self.dim, 0, -1):
            cells = x.shape[axis] // self.factor  # not -1, which a batch of none leaves open
            sides = (*x.shape[:axis], cells, self.factor, *x.shape[axis + 1 :])
            first, *others = x.view(sides).unbind(axis + 1)
            x = sum(others, first)
        return (x / self.factor**self.dim).movedim(-1, 1)


class Upsample(nn.Module):
    """Stretches each space axis by ``factor``, linearly or by repetition.

    (batch, channels, *space), ``dim`` axes of space. Raises ValueError for a dim other than 1, 2, 3, a factor below
    1, another mode, and features of another number of axes.
    """

    def __init__(self, dim: int, factor: int = 2, mode: Literal["linear", "nearest"] = "linear"):
        super().__init__()
        require_count("factor", factor)
        self.dim, self.factor = _require_dim(dim), factor
        if mode not in ("linear", "nearest"):
            raise ValueError(f'mode must be "linear" or "nearest", got {mode!r}')
        self.mode = _SMOOTH[dim] if mode == "linear" else "nearest"

    def forward(self, x: Tensor) -> Tensor:
        _require_space(x, self.dim)
        corners = None if self.mode == "nearest" else False
        return functional.interpolate(
            x, scale_factor=float(self.factor), mode=self.mode, align_corners=corners
        )


def _require_space(x: Tensor, dim: int) -> None:
    if x.ndim != dim + 2:
        raise ValueError(
            f"needs (batch, channels, *space) with {dim} space axes, got {tuple(x.shape)}"
        )


def _require_dim(dim: int) -> int:
    if dim not in _SMOOTH:
        raise ValueError(f"a change of resolution needs dim 1, 2 or 3, got {dim!r}")
    return dim
