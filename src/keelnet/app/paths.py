"""Paths: the states of all features layer by layer, and what can be read from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.app.model import Model
from keelnet.dynamics import Field, HamiltonianField, SymmetricField
from keelnet.dynamics.activations import activation_from
from keelnet.dynamics.fields import Theta
from keelnet.dynamics.hamiltonian import SeparableHamiltonian
from keelnet.propagation import Leapfrog, trajectory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Paths:
    """What ``trajectory`` gives for a model: the states after every layer, layer 0 first."""

    model: Model

    @cached_property
    def states(self) -> list[tuple[Tensor, ...]]:
        """y, and z, v or the y before where there is one, (paths, channels) each, after every layer; float64.

        Raises ValueError where the state becomes non-finite; the message names the layer.
        """
        model = self.model
        with torch.no_grad():
            return trajectory(
                model.integrator, model.field, model.y0, model.controls, model.scene.step_size
            )

    @cached_property
    def y(self) -> Array:
        """(N + 1, paths, channels)."""
        return torch.stack([state[0] for state in self.states]).numpy()

    @cached_property
    def z(self) -> Array | None:
        """(N + 1, paths, channels) of a field of two parts."""
        if not self.model.scene.channels[1]:
            return None
        return torch.stack([state[1] for state in self.states]).numpy()

    @cached_property
    def v(self) -> Array | None:
        """(N + 1, paths, channels), y' of leapfrog; half a step behind y from the first layer on where it starts by half a kick."""
        if not isinstance(self.model.integrator, Leapfrog):
            return None
        return torch.stack([state[1] for state in self.states]).numpy()

    @cached_property
    def parts(self) -> tuple[Tensor, ...]:
        """All parts of the state of the features (of the first point, if there is no feature), (N + 1, features, …)."""
        count = max(1, len(self.model.scene.features))
        others = range(1, len(self.states[0]))
        return torch.from_numpy(self.y[:, :count]), *(
            torch.stack([state[part][:count] for state in self.states]) for part in others
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """y₁, y₂, … z₁, …: the coordinates that can be drawn."""
        digits = "₁₂₃"
        return tuple(
            f"{part}{digits[index]}"
            for part, count in zip("yz", self.model.scene.channels, strict=True)
            for index in range(count)
        )

    def plane(self, across: int, up: int) -> Array:
        """Two coordinates of y and z together, by number from 0: (N + 1, paths, 2).

        Raises ValueError for numbers that name none.
        """
        count = len(self.names)
        if not (0 <= across < count and 0 <= up < count) or across == up:
            raise ValueError(
                f"a plane has two of the coordinates 0 to {count - 1} ({', '.join(self.names)}),"
                f" got {across} and {up}"
            )
        if (across, up) == (0, 1) and self.model.scene.channels[0] == 2:
            return self.y
        return np.stack([self._coordinate(across), self._coordinate(up)], axis=-1)

    def _coordinate(self, index: int) -> Array:
        width = self.model.scene.channels[0]
        if index < width:
            return self.y[..., index]
        assert self.z is not None
        return self.z[..., index - width]

    @cached_property
    def distances(self) -> tuple[tuple[tuple[int, int], Array], ...]:
        """|y_a − y_b| after each layer (N + 1,), for every pair of features."""
        count = len(self.model.scene.features)
        return tuple(
            ((a, b), np.linalg.norm(self.y[:, a] - self.y[:, b], axis=-1))
            for a, b in combinations(range(count), 2)
        )

    @cached_property
    def energy(self) -> tuple[str, Array]:
        """What nothing is lost of where a method keeps it: its formula, and (N + 1, features).

        H of Hamiltonian fields; the potential of the symmetric one, with ½ |v|² under Leapfrog; ½ |y|²
        where no energy is known. A kernel that changes in time counts as it is in the layer before.
        """
        field = self.model.field
        if activation_from(self.model.scene.activation).primitive is None:
            return "½ |y|²", self._by_layer(_half_square)
        if isinstance(field, SeparableHamiltonian):
            return "H(y, z)", self._by_layer(field.energy)
        if not isinstance(field, SymmetricField):
            return "½ |y|²", self._by_layer(_half_square)
        values = self._by_layer(lambda y, _, theta: field.potential(y, theta))
        if not isinstance(self.model.integrator, Leapfrog):
            return "Φ(y)", values
        return "Φ(y) + ½ |v|²", values + self._by_layer(
            lambda _, v, theta: _half_square(v, v, theta)
        )

    def _by_layer(self, energy: Callable[[Tensor, Tensor, Theta], Tensor]) -> Array:
        """energy(y, z, θ), one number a feature, of every layer: (N + 1, features)."""
        first, second = (self.parts * 2)[:2]
        controls = {
            name: torch.cat([value[:1], value]) for name, value in self.model.controls.items()
        }
        return torch.func.vmap(energy)(first, second, controls).numpy()


def _pushed(field: HamiltonianField, y: Tensor, theta: Theta) -> Tensor:
    """y'' = ∂y'/∂z · z' at z = 0."""
    pushed = field.rate_of_z(y, theta)
    start = torch.zeros_like(pushed)
    second: Tensor = torch.func.jvp(lambda z: field.rate_of_y(z, theta), (start,), (pushed,))[1]
    return second


def _half_square(y: Tensor, _: Tensor, theta: Theta) -> Tensor:
    return 0.5 * y.square().sum(-1)


def arrows(model: Model, points: Array) -> tuple[str, Array] | None:
    """What moves y at points (..., 2) of its first two coordinates: in words, and (..., 2).

    y' of fields of one part, any other coordinate 0, y'' under Leapfrog. Of a Hamiltonian field y' depends on z
    alone; shown is what the first layers add to f(u), y'' at z = 0: −f(y K + u) Kᵀ times f'(u), which is taken for 1
    where u is 0. None of two kernels.
    """
    field = model.resolved
    theta = {name: value[0] for name, value in model.controls.items()}
    y = torch.nn.functional.pad(torch.from_numpy(points), (0, model.scene.channels[0] - 2))
    words = "y′"
    if isinstance(model.integrator, Leapfrog):
        words = "y″"
    if isinstance(field, HamiltonianField):
        words = "y″ where z = 0"
        if "bias" in theta:
            return words, _pushed(field, y, theta)[..., :2].numpy()
        field = SymmetricField(field.kernel, field.activation)
    if not isinstance(field, Field):
        return None
    return words, field.rate(y, theta)[..., :2].numpy()
