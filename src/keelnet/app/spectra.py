"""Spectra: the eigenvalues of a scene's field, and the region in which its method does not grow."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from keelnet.app.growth import sampled
from keelnet.app.paths import Paths
from keelnet.dynamics.fields import Theta
from keelnet.propagation import RK4
from keelnet.propagation.integrators import Integrator

Array = NDArray[np.float64]
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


@cache
def region(integrator: Integrator) -> Array:
    """The outline of {h λ: |R(h λ)| ≤ 1} as points (P, 2); two of them where it is a segment.

    Of Leapfrog it is the segment of h² λ.
    """
    name = type(integrator).__name__
    if name == "Verlet":
        return np.array([[0.0, -2.0], [0.0, 2.0]])
    if name == "Midpoint":
        return np.array([[0.0, -1.0], [0.0, 1.0]])
    if name == "Leapfrog":
        return np.array([[-4.0, 0.0], [0.0, 0.0]])
    angles = np.linspace(0, 2 * np.pi, 241)
    if isinstance(integrator, RK4):
        return _runge_kutta(integrator, angles)
    return np.stack([np.cos(angles) - 1, np.sin(angles)], axis=1)


def _runge_kutta(integrator: RK4, angles: Array) -> Array:
    """The roots of R(x) = exp(i φ), followed from the origin: the four turns of φ close the outline."""
    turns = np.linspace(0, 8 * np.pi, 4 * len(angles))
    x = 0j
    found = []
    for angle in turns:
        for _ in range(8):
            value = 1 + x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4))) - np.exp(1j * angle)
            x = x - value / (1 + x * (1 + x / 2 * (1 + x / 3)))
        found.append([x.real, x.imag])
    return np.array(found)
