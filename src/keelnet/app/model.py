"""The network of a scene: its integrator, field, controls and first features, as keelnet's own values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from keelnet.analysis.path import Path
from keelnet.app.scene import STAGGERED, FieldName, Scene
from keelnet.dynamics import (
    AntisymmetricField,
    DenseKernel,
    DoubleHamiltonianField,
    HamiltonianField,
    SingleField,
    SymmetricField,
)
from keelnet.dynamics.fields import Dynamics
from keelnet.propagation import RK4, Euler, Integrator, Leapfrog, Midpoint, Verlet
from keelnet.propagation.bounds import damped

GOLDEN = math.pi * (3 - math.sqrt(5))

FIELDS: Mapping[FieldName, Callable[[DenseKernel, Scene], Dynamics]] = {
    "plain": lambda kernel, scene: SingleField(kernel, scene.activation),
    "antisymmetric": lambda kernel, scene: AntisymmetricField(
        kernel, scene.activation, "auto" if scene.damping is None else scene.damping
    ),
    "symmetric": lambda kernel, scene: SymmetricField(kernel, scene.activation),
    "hamiltonian": lambda kernel, scene: HamiltonianField(kernel, scene.activation),
    "double_hamiltonian": lambda kernel, scene: DoubleHamiltonianField(
        kernel, kernel, scene.activation
    ),
}
INTEGRATORS: Mapping[str, Callable[[Scene], Integrator]] = {
    "euler": lambda scene: Euler(),
    "rk4": lambda scene: RK4(),
    "midpoint": lambda scene: Midpoint(),
    "leapfrog": lambda scene: Leapfrog(scene.start),
    "verlet": lambda scene: Verlet(scene.start),
}


@dataclass(frozen=True)
class Model:
    """A scene as ``propagate`` takes it, float64: what the exported Python writes out."""

    scene: Scene

    @cached_property
    def integrator(self) -> Integrator:
        return INTEGRATORS[self.scene.integrator](self.scene)

    @cached_property
    def field(self) -> Dynamics:
        return FIELDS[self.scene.field](
            DenseKernel(len(self._kernel), self._kernel.shape[1]), self.scene
        )

    @cached_property
    def resolved(self) -> Dynamics:
        """The field with its damping as a number."""
        return damped(
            self.integrator, self.field, self.controls, self.scene.step_size, advise=False
        )

    @property
    def path(self) -> Path:
        """What the analysis looks along."""
        scene, field = self.scene, self.integrator.adapted(self.resolved)
        return Path(self.integrator, field, self.controls, scene.step_size, scene.depth, False)

    @cached_property
    def controls(self) -> dict[str, Tensor]:
        """One name a control, layers first."""
        changing = self._kernel * self.factors[:, None, None]
        if self.scene.field != "double_hamiltonian":
            return {"weight": changing} | self._biases("bias")
        constant = self._kernel.expand_as(changing).clone()
        return {"weight_1": constant, "weight_2": changing} | self._biases("bias_1", "bias_2")

    def _biases(self, *names: str) -> dict[str, Tensor]:
        """u of every layer, where it is not 0."""
        if not any(value for row in self.scene.bias for value in row):
            return {}
        depth, scalar = self.scene.depth, self.scene.biases[1] == 1
        rows = torch.tensor(self.scene.bias, dtype=torch.float64)
        return {
            name: (row[0] if scalar else row).expand(depth, *row.shape[scalar:]).clone()
            for name, row in zip(names, rows, strict=True)
        }

    @cached_property
    def factors(self) -> Tensor:
        """1 + strength · s(t_j) of every layer j, (depth,)."""
        scene = self.scene
        if scene.variation == "constant":
            return torch.ones(scene.depth, dtype=torch.float64)
        # The middle of a layer: at its ends the sign of a sine would be that of a rounding error.
        t = (torch.arange(scene.depth, dtype=torch.float64) + 0.5) * scene.step_size
        wave = torch.sin(2 * math.pi / scene.period * t)
        return 1 + scene.strength * (wave.sign() if scene.variation == "abrupt" else wave)

    @cached_property
    def y0(self) -> Tensor:
        """Features, then the cloud: (paths, channels of y)."""
        scene = self.scene
        count = torch.arange(scene.cloud, dtype=torch.float64)
        radius = scene.spread * ((count + 0.5) / max(1, scene.cloud)).sqrt()
        disc = torch.stack(
            [radius * (count * GOLDEN).cos(), radius * (count * GOLDEN).sin()], dim=1
        )
        given = torch.tensor(scene.features, dtype=torch.float64).reshape(-1, 2)
        plane = torch.cat([given, disc])
        return torch.nn.functional.pad(plane, (0, scene.channels[0] - 2))

    @property
    def swings(self) -> bool:
        """Whether K changes from layer to layer."""
        return self.scene.variation != "constant" and self.scene.strength > 0

    @property
    def half(self) -> bool:
        """Whether the first kick is half of one."""
        return self.scene.integrator in STAGGERED and self.scene.start == "half"

    @cached_property
    def _kernel(self) -> Tensor:
        return torch.tensor(self.scene.kernel, dtype=torch.float64)
