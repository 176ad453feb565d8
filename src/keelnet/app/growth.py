"""Growth: how much a small difference between two features has grown, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.app.paths import Paths
from keelnet.dynamics.fields import Theta

Array = NDArray[np.float64]
SAMPLES = 128  # layers at which growth is read; all are multiplied


@dataclass(frozen=True)
class Growth:
    """Singular values of ∂y_j/∂y_0 at some layers j: log₁₀ of the largest and the smallest.

    layers (S,), largest and smallest (S, features). Logarithms, since the values may exceed 10³⁰⁸.
    """

    layers: NDArray[np.int64]
    largest: Array
    smallest: Array


def growth(paths: Paths) -> Growth:
    """The product of the layers' Jacobians along the path of each feature (or of the first point)."""
    n = paths.y.shape[-1]
    layers = sampled(paths.model.scene.depth, SAMPLES)
    blocks = _products(step_jacobians(paths), layers)
    product = _first_difference(paths, blocks.shape[1])
    exponent = np.zeros(len(product))
    rows, exponents = [product[:, :n]], [exponent]
    for block in blocks:
        product = block @ product
        size = np.maximum(np.abs(product).max(axis=(1, 2)), 1e-300)
        product = product / size[:, None, None]
        exponent = exponent + np.log10(size)
        rows.append(product[:, :n])
        exponents.append(exponent)
    values = np.linalg.svd(np.stack(rows), compute_uv=False)
    logarithms = np.log10(np.maximum(values, 1e-300)) + np.stack(exponents)[..., None]
    return Growth(layers, logarithms[..., 0], logarithms[..., -1])


def _products(jacobians: Array, layers: NDArray[np.int64]) -> Array:
    """The product of the layers between each two of ``layers``: all blocks at once, layer by layer in each."""
    lengths = np.diff(layers)
    identity = np.broadcast_to(np.eye(jacobians.shape[-1]), (1, *jacobians.shape[1:]))
    padded = np.concatenate([jacobians, identity])
    product = jacobians[layers[:-1]]
    for step in range(1, int(lengths.max())):
        at = np.where(step < lengths, layers[:-1] + step, len(jacobians))
        product = padded[at] @ product
    return product


def sampled(depth: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` layers from 0 to depth, both among them, evenly."""
    return np.unique(np.linspace(0, depth, min(depth + 1, most)).round().astype(np.int64))


def step_jacobians(paths: Paths) -> Array:
    """∂(state after layer j)/∂(state before), (N, features, m, m), where m counts all parts' channels."""
    before = torch.cat([part[:-1] for part in paths.parts], dim=-1)
    # The first layer of a staggered or two-step method is another than the rest.
    first = _jacobians(paths, before[:1], 0, slice(0, 1))
    if len(before) == 1:
        return first.numpy()
    return torch.cat([first, _jacobians(paths, before[1:], 1, slice(1, None))]).numpy()


def _jacobians(paths: Paths, before: Tensor, layer: int, chosen: slice) -> Tensor:
    model = paths.model
    field = model.integrator.adapted(model.resolved)
    widths = [part.shape[-1] for part in paths.parts]

    def after(state: Tensor, theta: Theta) -> Tensor:
        parts = torch.split(state, widths, dim=-1)
        return torch.cat(
            model.integrator.step(field, parts, theta, model.scene.step_size, layer), dim=-1
        )

    controls = {name: value[chosen] for name, value in model.controls.items()}
    by_feature = torch.func.vmap(torch.func.jacfwd(after), in_dims=(0, None))
    with torch.no_grad():
        return torch.func.vmap(by_feature)(before, controls)


def _first_difference(paths: Paths, features: int) -> Array:
    """∂(state)/∂y at layer 0, (features, m, n): the other part starts at 0, or (two steps) as y does."""
    n = paths.y.shape[-1]
    identity = np.eye(n)
    parts = [identity] + [
        identity if paths.model.scene.integrator == "midpoint" else np.zeros((part.shape[-1], n))
        for part in paths.parts[1:]
    ]
    return np.broadcast_to(np.concatenate(parts), (features, *np.concatenate(parts).shape)).copy()
