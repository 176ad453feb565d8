"""Wavelets: a change of resolution that loses nothing, the orthonormal Haar transform."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from keelnet.networks.connections import _require_dim, _require_space

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Haar(nn.Module):
    """(batch, c, *space) → (batch, 2^dim c, *space / 2), the means of cells first, then their differences.

    Along each axis neighbours a, b become (a + b)/√2 and (a − b)/√2. Orthonormal: lengths are kept,
    and `inverse` gives x back to rounding. Linear: `inverse` keeps nothing of y for
    backward, and neither does the transform of an x that needs no gradient, as images are. Raises ValueError where a space axis is odd.

    Source: A. Haar, Zur Theorie der orthogonalen Funktionensysteme (1910).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = _require_dim(dim)

    def forward(self, x: Tensor) -> Tensor:
        _require_space(x, self.dim)
        if any(side % 2 for side in x.shape[2:]):
            raise ValueError(
                f"halving the resolution needs even sides, got {tuple(x.shape[2:])}; pad the input"
            )
        # A convolution with stride 2: nine times as fast as sums and differences axis by axis.
        cells = _matrix(x, self.dim, x.shape[1]).view(-1, *(2,) * self.dim, x.shape[1])
        axes = (0, self.dim + 1, *range(self.dim, 0, -1))
        return _CONV[self.dim](x, cells.permute(axes).contiguous(), stride=2)

    def inverse(self, y: Tensor) -> Tensor:
        """x from its transform."""
        _require_space(y, self.dim)
        if y.shape[1] % 2**self.dim:
            raise ValueError(
                f"a Haar transform has a multiple of {2**self.dim} channels, got {y.shape[1]}"
            )
        channels, space = y.shape[1] // 2**self.dim, y.shape[2:]
        cells = y.movedim(1, -1).flatten(0, -2) @ _matrix(y, self.dim, channels)
        # (batch, *space / 2, last axis of the cell … first, c): each cell's axis beside its own.
        cells = cells.view(len(y), *space, *(2,) * self.dim, channels)
        axes = [place for axis in range(self.dim) for place in (1 + axis, 2 * self.dim - axis)]
        beside = cells.permute(0, *axes, 2 * self.dim + 1)
        return beside.reshape(len(y), *(2 * side for side in space), channels).movedim(-1, 1)


def _matrix(y: Tensor, dim: int, channels: int) -> Tensor:
    """(2^dim c, 2^dim c) as y is: rows are differences (last axis first) and channels, columns a cell's corners."""
    return torch.from_numpy(_transform(dim, channels)).to(y)


# Of NumPy: a tensor made in inference mode, or as a fake one, would be so for ever.
@functools.cache
def _transform(dim: int, channels: int) -> NDArray[np.floating[Any]]:
    single = np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    matrix: NDArray[np.floating[Any]] = np.eye(channels)
    for _ in range(dim):
        matrix = np.kron(single, matrix)
    return matrix
