"""Spectra: the eigenvalues of a scene's field along the path of its first feature."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from keelnet.analysis.courses import sampled
from keelnet.app.paths import Paths
from keelnet.dynamics.fields import Theta

SAMPLES = 64


def eigenvalues(paths: Paths) -> tuple[NDArray[np.int64], NDArray[np.complex128]]:
    """λ of the field's Jacobian at the first feature, as its path meets it: layers (S,), λ (S, m).

    Under Leapfrog the field is y'' = f(y): its λ is that of the second-order equation.
    """
    model = paths.model
    field = model.resolved
    layers = sampled(model.scene.depth, SAMPLES)
    two = model.scene.channels[1] > 0
    parts = [part[torch.from_numpy(layers), 0] for part in paths.parts[: 1 + two]]
    widths = [part.shape[-1] for part in parts]

    def rate(state: torch.Tensor, theta: Theta) -> torch.Tensor:
        return torch.cat(field.rates(torch.split(state, widths, dim=-1), theta), dim=-1)

    at = torch.from_numpy(np.maximum(layers - 1, 0))
    controls = {name: value[at] for name, value in model.controls.items()}
    with torch.no_grad():
        jacobians = torch.func.vmap(torch.func.jacfwd(rate))(torch.cat(parts, dim=-1), controls)
    return layers, np.linalg.eigvals(jacobians.numpy()).astype(complex)
