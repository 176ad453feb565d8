"""Singular values: the largest and the least stretch of a derivative, by products alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Real = NDArray[np.float64]

SMALL = 64  # numbers a sample up to which the whole matrix is formed
DENSE = 400  # up to which it is where a matrix is worth more than products with it: 1.3 MB
WIDE = 1024  # numbers of a value up to which the matrix is formed by its rows
LOOK = 5  # steps between two looks at what has been found
NEAR = 3e-3  # residual from which a few steps more reach `CONVERGED`
NARROWEST = 1e-15  # norms that float32 finds to all its digits are larger
CONVERGED = 3e-4  # residual of a singular pair over its bound: the value is off by about its square


class Derivative(ABC):
    """J of a map at y (samples, …), sample by sample, as the products J v and Jᵀ w.

    certain: whether both are of one J, all but rounding; else J v is rough and Jᵀ w exact. whole: numbers a sample up
    to which the matrix is formed in any case.
    """

    y: Tensor
    certain: bool = True
    whole: int = 0

    @abstractmethod
    def pushed(self, v: Tensor) -> Tensor:
        """J v; v like y."""

    @abstractmethod
    def pulled(self, w: Tensor) -> Tensor:
        """Jᵀ w; w like the map's value."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """(samples, outputs, inputs)."""

    def matrices(self) -> Iterable[Tensor]:
        """(outputs, inputs) of each sample."""
        return self.matrix()


@dataclass(frozen=True)
class Extremes:
    """The largest and the least singular value at each sample (samples,).

    From products they are bounds from inside: the largest is at least ``largest``, the least at most ``smallest``;
    the flags say where the residual is small enough for equality. ``every`` holds all of them, falling
    (samples, any), where the matrix was formed.
    """

    largest: Real
    smallest: Real
    largest_converged: NDArray[np.bool_]
    smallest_converged: NDArray[np.bool_]
    every: Real | None = None


def extremes(
    derivative: Derivative,
    iterations: int = 30,
    seed: int = 0,
    small: int = SMALL,
    settled: float = 0.0,
) -> Extremes:
    """Extreme singular values: exact up to ``small`` numbers a sample, else by Golub–Kahan–Lanczos.

    A Lanczos step costs one J v and one Jᵀ w, as a step of power iteration does, and keeps two vectors. It ends when the
    largest value has converged (`CONVERGED`), or after ``iterations``; also where `LOOK` steps raised it by less than its share
    ``settled`` while convergence is still far (`NEAR`). Without reorthogonalisation values may appear
    twice, but none beyond the true ones; where J v is rough they would, so there power iteration is taken. The seed
    draws the first direction.
    """
    size = derivative.y[0].numel()
    if size <= derivative.whole or (derivative.certain and size <= small):
        return _exact(_matrices(derivative))
    if not derivative.certain:
        return _powers(derivative, iterations, seed, settled)
    return _Bidiagonal(derivative, seed).extended(iterations, settled)


def _matrices(derivative: Derivative) -> Iterable[Tensor]:
    """(outputs, inputs) of each sample: by columns where there are many outputs, since rows take a sample for each."""
    y = derivative.y
    if y[0].numel() <= derivative.whole:
        return derivative.matrices()
    units = torch.eye(y[0].numel(), dtype=y.dtype, device=y.device)
    first = derivative.pushed(units[0].reshape(1, *y.shape[1:]).expand_as(y))
    if first[0].numel() <= WIDE:
        return derivative.matrices()
    rest = (derivative.pushed(unit.reshape(1, *y.shape[1:]).expand_as(y)) for unit in units[1:])
    return torch.stack([column.detach().flatten(1) for column in (first, *rest)], dim=2)


def _exact(matrices: Iterable[Tensor]) -> Extremes:
    every, seen = [], []
    for matrix in matrices:
        one = matrix.detach().double().cpu()
        values = np.full(min(one.shape), np.inf)
        if bool(one.isfinite().all()):
            values = torch.linalg.svdvals(one).numpy()
        every.append(values)
        # Rounding hides a least value far below the largest: what is found then only bounds it.
        seen.append(values[-1] > len(values) * torch.finfo(matrix.dtype).eps * values[0])
    found = np.stack(every)
    return Extremes(found[:, 0], found[:, -1], np.ones(len(found), bool), np.array(seen), found)


def _powers(derivative: Derivative, iterations: int, seed: int, settled: float) -> Extremes:
    """By Jᵀ w alone: |Jᵀ u| of a u of size 1 lies within the singular values, however roughly J v led to that u.

    (The least of them bounds σ_min of a J of no more rows than columns; of others it is |J v|.)
    """
    v = direction(derivative.y, seed)
    largest, smallest, before = np.zeros(len(v)), np.full(len(v), np.inf), np.zeros(len(v))
    for count in range(1, iterations + 1):
        w = derivative.pushed(v)
        lengths = norms(w)
        t = derivative.pulled(divided(w, lengths))
        sizes = norms(t)
        largest = np.maximum(largest, _numbers(sizes))
        high = w[0].numel() > v[0].numel()
        smallest = np.minimum(smallest, _numbers(lengths if high else sizes))
        if count % LOOK == 0:
            if bool((largest - before <= max(settled, CONVERGED) * largest).all()):
                break
            before = largest
        v = divided(t, sizes)
    no = np.zeros(len(v), bool)
    return Extremes(largest, smallest, no, no)


class _Bidiagonal:
    """U B Vᵀ ≈ J for every sample: diag(B) = α, its superdiagonal β."""

    def __init__(self, derivative: Derivative, seed: int) -> None:
        self.derivative = derivative
        y = derivative.y
        self.v = direction(y, seed)
        self.u: Tensor | None = None
        self.rows, self.columns = 0, y[0].numel()
        self.beta = y.new_zeros(len(y))
        self.near = np.zeros(len(y), bool)
        self.alphas: list[Real] = []
        self.betas: list[Real] = []
        self.eps = 100 * torch.finfo(y.dtype).eps

    def extended(self, iterations: int, settled: float) -> Extremes:
        before = np.zeros(len(self.v))
        for count in range(1, iterations + 1):
            self._step()
            if count % LOOK == 0 or count in (1, iterations):
                found = self._looked()
                still = found.largest - before <= settled * found.largest
                if bool((found.largest_converged | (still & ~self.near)).all()):
                    break
                before = found.largest
        return found

    def _step(self) -> None:
        w = self.derivative.pushed(self.v)
        if self.u is not None:
            w = torch.addcmul(w, _shaped(self.beta, w), self.u, value=-1)
        self.rows = w[0].numel()
        alpha = norms(w)
        self.u = divided(w, alpha)
        del w  # as large as a state
        t = self.derivative.pulled(self.u)
        t = torch.addcmul(t, _shaped(alpha, t), self.v, value=-1)
        self.beta = norms(t)
        self.v = divided(t, self.beta)
        self.alphas.append(_numbers(alpha))
        self.betas.append(_numbers(self.beta))

    def _looked(self) -> Extremes:
        alphas, betas = np.stack(self.alphas), np.stack(self.betas)
        rows = [self._of(alphas[:, n], betas[:, n]) for n in range(alphas.shape[1])]
        largest, smallest, top, bottom = (np.array(column) for column in zip(*rows, strict=True))
        self.near = top <= NEAR
        return Extremes(largest, smallest, top <= CONVERGED, bottom <= CONVERGED)

    def _of(self, alphas: Real, betas: Real) -> tuple[float, float, float, float]:
        """Of one sample: both values, and the residual of each as a share of it.

        A vanishing α or β ends the process: the Krylov space is invariant, the values exact. α vanishes where J takes a
        direction to 0 up to rounding. A J of at least as many rows as columns then has σ_min = 0; one with more
        columns always has such directions, and a σ of 0 beside them is not met.
        """
        if not (np.isfinite(alphas).all() and np.isfinite(betas).all()):
            return float("inf"), 0.0, 0.0, math.inf
        scale = max(alphas.max(), betas.max())
        if scale == 0:
            return 0.0, 0.0, 0.0, 0.0
        dead_alpha, dead_beta = alphas <= self.eps * scale, betas <= self.eps * scale
        steps = len(alphas)
        first_alpha = int(dead_alpha.argmax()) if dead_alpha.any() else steps
        first_beta = int(dead_beta.argmax()) if dead_beta.any() else steps
        count = min(first_alpha, first_beta + 1)
        matrix = np.diag(alphas[:count]) + np.diag(betas[: count - 1], 1)
        if (
            first_alpha <= first_beta and first_alpha < steps
        ):  # one more column: J is wider than what it reached
            matrix = np.hstack([matrix, np.zeros((count, 1))])
            matrix[-1, -1] = betas[count - 1]
        left, values, _ = np.linalg.svd(matrix)
        ended = min(first_alpha, first_beta) < steps
        residuals = 0 * values if ended else betas[count - 1] * np.abs(left[-1])
        with np.errstate(over="ignore"):
            shares = residuals / np.maximum(values, np.finfo(float).tiny)
        if first_alpha <= first_beta and first_alpha < steps:
            if self.rows >= self.columns:
                return float(values[0]), 0.0, float(shares[0]), math.inf
            if count < self.rows:
                shares[-1] = math.inf
        return float(values[0]), float(values[-1]), float(shares[0]), float(shares[-1])


def direction(y: Tensor, seed: int) -> Tensor:
    """One of size 1 for each sample of y (samples, …), drawn: the same on every device, whatever the default one."""
    generator = torch.Generator("cpu").manual_seed(seed)
    v = torch.randn(y.shape, generator=generator, device="cpu").to(y)
    return v / _shaped(v.reshape(len(v), -1).norm(dim=1), v)


def norms(x: Tensor) -> Tensor:
    """Of each sample, in float64: squares of float32 overflow from 1.8e19 on, and vanish below 1e-22."""
    rows = x.flatten(1)
    found = rows.norm(dim=1).double()
    if bool(((found > NARROWEST) & found.isfinite()).all()):  # without a copy of x in float64
        return found
    return rows.norm(dim=1, dtype=torch.float64)


def _numbers(x: Tensor) -> Real:
    return x.detach().double().cpu().numpy()


def _shaped(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def divided(x: Tensor, sizes: Tensor) -> Tensor:
    """x over its norms; 0 where they vanish."""
    return x * _shaped(1 / sizes.clamp(min=torch.finfo(x.dtype).tiny), x)
