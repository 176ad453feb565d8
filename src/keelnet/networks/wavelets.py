"""Wavelets: a change of resolution that loses nothing, the orthonormal Haar transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from keelnet.networks.connections import _require_dim, _require_space


class Haar(nn.Module):
    """(batch, c, *space) → (batch, 2^dim c, *space / 2), the means of cells first, then their differences.

    Along each axis neighbours a, b become (a + b)/√2 and (a − b)/√2. Orthonormal: lengths are kept,
    and `inverse` gives x back to rounding. It is linear and saves nothing for backward. Raises
    ValueError where a space axis is odd.

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
        for axis in range(2, self.dim + 2):
            shape = (*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
            a, b = (x * (1 / math.sqrt(2))).reshape(shape).unbind(axis + 1)
            x = torch.cat([a + b, a - b], 1)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """x from its transform."""
        _require_space(y, self.dim)
        if y.shape[1] % 2**self.dim:
            raise ValueError(
                f"a Haar transform has a multiple of {2**self.dim} channels, got {y.shape[1]}"
            )
        for axis in reversed(range(2, self.dim + 2)):
            total, difference = (y * (1 / math.sqrt(2))).chunk(2, 1)
            pairs = torch.stack([total + difference, total - difference], axis + 1)
            y = pairs.flatten(axis, axis + 1)
        return y
