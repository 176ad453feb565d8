"""Courses: how much a small difference has grown up to each layer of a path, even past what a float can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.analysis.derivatives import matrix_of
from keelnet.analysis.layers import flattened, joined
from keelnet.analysis.path import Path
from keelnet.analysis.singular import Real
from keelnet.dynamics.fields import Theta
from keelnet.propagation.integrators import State

Layers = NDArray[np.int64]
LEAST = 1e-300  # what is smaller is taken for it: its logarithm is finite


@dataclass(frozen=True)
class Course:
    """Singular values of ∂y_j/∂y_0 at some layers j, 0 the features themselves: log₁₀ of the largest and the smallest.

    layers (S,), largest and smallest (S, samples). Logarithms, since the values may exceed 10³⁰⁸.
    """

    layers: Layers
    largest: Real
    smallest: Real


def course_of(path: Path, states: State, layers: Layers) -> Course:
    """The product of the layers' Jacobians along the path of each sample.

    states: the parts of the state before the first layer and after every one, (N + 1, samples, channels, …).
    layers: from 0 to N, rising, both among them. All layers are multiplied, whichever are asked for.
    """
    first, last = _ends(path, states)
    product = np.broadcast_to(first, (states[0].shape[1], *first.shape))
    exponent = np.zeros(len(product))
    rows, exponents = [last @ product], [exponent]
    for block, size in zip(*_products(_jacobians(path, states), layers), strict=True):
        product, more = _scaled(block @ product)
        exponent = exponent + size + more
        rows.append(last @ product)
        exponents.append(exponent)
    values = np.linalg.svd(np.stack(rows), compute_uv=False)
    logarithms = np.log10(np.maximum(values, LEAST)) + np.stack(exponents)[..., None]
    return Course(layers, logarithms[..., 0], logarithms[..., -1])


def sampled(depth: int, most: int) -> Layers:
    """At most ``most`` layers from 0 to depth, both among them, evenly."""
    return np.unique(np.linspace(0, depth, min(depth + 1, most)).round().astype(np.int64))


def _ends(path: Path, states: State) -> tuple[Real, Real]:
    """Features ↦ first state and state ↦ features, linear maps as matrices."""
    one = tuple(part[0, :1] for part in states)
    features = path.features(one)
    begin = matrix_of(lambda y: joined(path.begin(y)), features)
    end = matrix_of(flattened(lambda parts: (path.features(parts),), one), joined(one))
    return begin.double().cpu().numpy(), end.double().cpu().numpy()


def _scaled(matrices: Real) -> tuple[Real, Real]:
    """Each with 1 as its largest number, and log₁₀ of what it was divided by."""
    size = np.maximum(np.abs(matrices).max(axis=(-2, -1)), LEAST)
    return matrices / size[..., None, None], np.log10(size)


def _products(jacobians: Real, layers: Layers) -> tuple[Real, Real]:
    """The product of the layers between each two of ``layers``, scaled: all blocks at once, layer by layer in each."""
    lengths = np.diff(layers)
    identity = np.broadcast_to(np.eye(jacobians.shape[-1]), (1, *jacobians.shape[1:]))
    padded = np.concatenate([jacobians, identity])
    product, exponent = _scaled(jacobians[layers[:-1]])
    for step in range(1, int(lengths.max())):
        at = np.where(step < lengths, layers[:-1] + step, len(jacobians))
        product, more = _scaled(padded[at] @ product)
        exponent = exponent + more
    return product, exponent


def _jacobians(path: Path, states: State) -> Real:
    """∂(state after a layer)/∂(state before), (N, samples, m, m), where m counts all numbers of a state."""
    vectors = all(part.ndim == 3 for part in states)
    if not (path.own and vectors):
        return _one_by_one(path, states)
    before = torch.cat([part[:-1] for part in states], dim=-1)
    # The first layer of a staggered or two-step method is another than the rest.
    first = _together(path, states, before[:1], 0, slice(0, 1))
    if len(before) == 1:
        return first.double().cpu().numpy()
    rest = _together(path, states, before[1:], 1, slice(1, None))
    return torch.cat([first, rest]).double().cpu().numpy()


def _together(path: Path, states: State, before: Tensor, layer: int, chosen: slice) -> Tensor:
    """Of many layers and samples at once: 1000 layers take what ten take one by one."""
    widths = [part.shape[-1] for part in states]

    def after(state: Tensor, theta: Theta) -> Tensor:
        parts = torch.split(state, widths, dim=-1)
        return torch.cat(path.integrator.step(path.field, parts, theta, path.h, layer), dim=-1)

    controls = {name: value[chosen] for name, value in path.controls.items()}
    by_sample = torch.func.vmap(torch.func.jacfwd(after), in_dims=(0, None))
    with torch.no_grad():
        return torch.func.vmap(by_sample)(before, controls)


def _one_by_one(path: Path, states: State) -> Real:
    """Of features with an extent in space, and of what is not keelnet's own: it may ask for the layer or a batch."""
    found = []
    for layer in range(path.depth):
        for sample in range(states[0].shape[1]):
            one = tuple(part[layer, sample : sample + 1] for part in states)
            step = flattened(lambda parts, layer=layer: path.step(parts, layer), one)  # type: ignore[misc]
            found.append(matrix_of(step, joined(one)).double().cpu().numpy())
    size = found[0].shape[-1]
    return np.stack(found).reshape(path.depth, -1, size, size)
