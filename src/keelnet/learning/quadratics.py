"""Quadratics: the regularisers' operators, ½ ⟨v, A v⟩, and their inverses by cosine transforms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """A v = shift · v + Σ_axis weight · L v, L the second difference along an axis with free ends.

    ½ ⟨v, A v⟩ = ½ shift ‖v‖² + Σ ½ weight ‖Δ v‖². mass: what ‖v‖² weighs in the norm of the
    function that v samples (h for knots in time). shape: v seen as this, (…, knots or points, …).
    """

    shift: float = 0.0
    stiffness: tuple[tuple[int, float], ...] = ()
    mass: float = 1.0
    shape: tuple[int, ...] | None = None

    @property
    def joins_only_first(self) -> bool:
        """Whether entries along the first axis, and no others, depend on each other."""
        return self.shape is None and [axis for axis, weight in self.stiffness if weight] == [0]

    def product(self, v: Tensor) -> Tensor:
        """A v."""
        seen = v if self.shape is None else v.reshape(self.shape)
        result = self.shift * seen
        for axis, weight in self.stiffness:
            result = result + weight * _second_difference(seen, axis)
        return result.reshape(v.shape)

    def solved(self, r: Tensor, damping: float) -> Tensor:
        """(A + damping · mass)⁻¹ r, exactly, by fast cosine transforms; needs a shift above 0 in all.

        The even extension of r along an axis turns free ends into periodic ones, so that the
        operator becomes diagonal under the Fourier transform with 2 − 2 cos(π k / points).
        """
        shift = self.shift + damping * self.mass
        if not shift > 0:
            raise ValueError(
                "an operator of differences alone has no inverse: constants are free;"
                " use tikhonov > 0 or a damping > 0"
            )
        axes = [axis for axis, weight in self.stiffness if weight > 0]
        if not axes:
            return r / shift
        seen = r if self.shape is None else r.reshape(self.shape)
        points = seen.shape
        symbol = torch.full([1] * seen.ndim, shift, dtype=r.dtype, device=r.device)
        for axis, weight in self.stiffness:
            symbol = symbol + weight * _symbol(seen, axis)
        for axis in axes:
            seen = torch.cat([seen, seen.flip(axis)], dim=axis)
        spectrum = torch.fft.fftn(seen, dim=axes) / symbol
        solution = torch.fft.ifftn(spectrum, dim=axes).real
        for axis in axes:
            solution = solution.narrow(axis, 0, points[axis])
        return solution.reshape(r.shape)


def _second_difference(v: Tensor, axis: int) -> Tensor:
    """Δᵀ Δ v, Δ the difference of neighbours: rows (1, −1), (−1, 2, −1), …, (−1, 1)."""
    step = v.diff(dim=axis)
    edge = torch.zeros_like(v.narrow(axis, 0, 1))
    return -torch.cat([edge, step, edge], dim=axis).diff(dim=axis)


def _symbol(v: Tensor, axis: int) -> Tensor:
    """2 − 2 cos(π k / points) for the 2 · points frequencies of the even extension."""
    points = v.shape[axis]
    k = torch.arange(2 * points, dtype=v.dtype, device=v.device)
    values = 2 - 2 * torch.cos(torch.pi * k / points)
    return values.reshape([-1 if each == axis else 1 for each in range(v.ndim)])
