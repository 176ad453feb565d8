"""Spectra: the eigenvalues of a scene's field along the paths of its features, and where f' is at its largest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.analysis.courses import sampled
from keelnet.app.model import Model
from keelnet.app.paths import Paths
from keelnet.dynamics.activations import Activation
from keelnet.dynamics.bends import Bender
from keelnet.dynamics.fields import Dynamics, Theta, slope_of

SAMPLES = 64
Complex = NDArray[np.complex128]


def eigenvalues(paths: Paths) -> tuple[NDArray[np.int64], Complex]:
    """λ of the field's Jacobian at every feature, as its path meets it: layers (S,), λ (S, features, m).

    Under Leapfrog the field is y'' = f(y): its λ is that of the second-order equation.
    """
    model = paths.model
    layers = sampled(model.scene.depth, SAMPLES)
    two = model.scene.channels[1] > 0
    parts = [part[torch.from_numpy(layers)] for part in paths.parts[: 1 + two]]
    states = torch.cat(parts, dim=-1)
    count, width = states.shape[1:]
    # As one batch: one vmap within another takes several times as long on states this small.
    at = torch.from_numpy(np.maximum(layers - 1, 0)).repeat_interleave(count)
    controls = {name: value[at] for name, value in model.controls.items()}
    by_sample = torch.func.vmap(torch.func.jacfwd(_rate(model, model.resolved)))
    with torch.no_grad():
        jacobians = by_sample(states.flatten(0, 1), controls).numpy()
    return layers, np.linalg.eigvals(jacobians).astype(complex).reshape(-1, count, width)


def steepest(model: Model) -> Complex:
    """All λ of every layer with f' at its largest in all channels, (layers, m): of the field with f = max |f'| · x.

    ``field.spectrum`` gives the extreme ones alone: among those between them one may lie on the edge.
    """
    field = model.resolved
    assert isinstance(field, Bender)
    slope = slope_of(field.activation)
    linear = field.holding({"activation": Activation("linear", lambda x: slope * x)})
    controls = {name: value for name, value in model.controls.items() if "weight" in name}
    if not model.swings:  # identical layers have identical spectra
        controls = {name: value[:1] for name, value in controls.items()}
    units = torch.eye(sum(model.scene.channels), dtype=torch.float64)
    with torch.no_grad():
        # A linear field takes unit vectors to the rows of its matrix.
        matrices = torch.func.vmap(_rate(model, linear), in_dims=(None, 0))(units, controls)
    return np.linalg.eigvals(matrices.numpy()).astype(complex)


def _rate(model: Model, field: Dynamics) -> Callable[[Tensor, Theta], Tensor]:
    """The rates of all parts as one vector."""
    widths = [width for width in model.scene.channels if width]

    def rate(state: Tensor, theta: Theta) -> Tensor:
        return torch.cat(field.rates(torch.split(state, widths, dim=-1), theta), dim=-1)

    return rate
