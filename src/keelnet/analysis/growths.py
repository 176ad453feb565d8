"""Growths: how much the whole of a map lets a perturbation grow or shrink, sample by sample and layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from keelnet.analysis.courses import course_of
from keelnet.analysis.layers import precise
from keelnet.analysis.path import Path, PathDerivative
from keelnet.analysis.singular import (
    SMALL,
    Derivative,
    Extremes,
    Real,
    direction,
    divided,
    extremes,
    norms,
)

KEPT = 2**20  # bytes of features that are looked at together in any case
PARTS = 4  # of a larger batch: one after the other, in a part of the memory that the network itself needs
POWER = 5  # iterations for the perturbation that is followed through the layers


@dataclass(frozen=True)
class Growth:
    """Over all samples: the largest and the least singular value, and the sample (from 0) that grows most.

    converged: whether the largest has; the least is an upper bound where ``least_converged`` is False.
    """

    largest: float
    smallest: float
    sample: int
    converged: bool
    least_converged: bool


def growth_of(
    derivative: Callable[[Tensor], Derivative], y: Tensor, iterations: int, settled: float = 0.0
) -> Growth:
    """Of the map whose derivative at features (samples, …) is given; large batches part by part.

    ``settled`` as in `extremes`.
    """
    parts = torch.split(y, together(y))
    found = [extremes(derivative(part), iterations, settled=settled) for part in parts]
    largest = np.concatenate([each.largest for each in found])
    smallest = np.concatenate([each.smallest for each in found])
    sample, least = int(largest.argmax()), int(smallest.argmin())
    return Growth(
        float(largest[sample]),
        float(smallest[least]),
        sample,
        bool(_joined(found, "largest_converged").all()),
        bool(_joined(found, "smallest_converged")[least]),
    )


def _joined(found: list[Extremes], name: str) -> Real:
    return np.concatenate([getattr(each, name) for each in found])


def together(y: Tensor) -> int:
    """How many samples at once. Of small ones the whole matrix is formed, a row for each number."""
    size = y[0].numel()
    bytes_each = size * y.element_size() * (size if size <= SMALL else 1)
    few = -(-len(y) // PARTS) if size > SMALL else 1
    return max(few, KEPT // max(1, bytes_each))


def growth_by_layer(path: Path, y: Tensor) -> Real:
    """σ_max and σ_min of the derivative of the features after each layer, (layers, 2), at one sample y (1, …).

    Beyond `SMALL` numbers: the size after each layer of the perturbation of size 1 that grows most to the end, a lower
    bound of σ_max, and nan.
    """
    size = y[0].numel()
    if size > SMALL:
        return _followed(path, y)
    with torch.no_grad():
        path, start = precise(path, path.begin(y))
        states = [start, *path.states(start, range(path.depth))]
    found = course_of(
        path, tuple(map(torch.stack, zip(*states, strict=True))), np.arange(path.depth + 1)
    )
    with np.errstate(over="ignore"):
        return 10 ** np.concatenate([found.largest[1:], found.smallest[1:]], axis=1)


def _followed(path: Path, y: Tensor) -> Real:
    derivative = PathDerivative(path, y)
    v = direction(y, 0)
    for _ in range(POWER):
        v = _of_size_1(derivative.pulled(_of_size_1(derivative.pushed(v))))
    sizes = [float(norms(tangent)) for tangent in path.tangents(y, v)]
    return np.stack([np.array(sizes), np.full(len(sizes), np.nan)], axis=1)


def _of_size_1(x: Tensor) -> Tensor:
    return divided(x, norms(x))
