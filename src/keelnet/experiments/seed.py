"""The experiments of the source paper: Gonzalez & Mang, *Fast and Stable Algorithms for Deep Learning*.

Its Fig. 2 (explicit Euler, plain and antisymmetric) and Fig. 3 (Verlet), in float64. Features are
rows, so a weight acts as ``y @ weight``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.dynamics import (
    AntisymmetricField,
    DenseKernel,
    HamiltonianField,
    SingleField,
    SymmetricField,
)
from keelnet.dynamics.activations import activation_from
from keelnet.propagation import Euler, Integrator, StabilityWarning, Verlet, trajectory
from keelnet.propagation.shears import Start

Array = NDArray[np.float64]
Matrix = tuple[tuple[float, ...], ...]
SeedField = SingleField | AntisymmetricField | HamiltonianField

STEP_SIZE = 0.1
FEATURES: Matrix = ((0.1, 0.1), (-0.1, -0.1), (0.0, 0.5))
KERNELS: Mapping[str, Matrix] = {
    "plus": ((2.0, -2.0), (0.0, 2.0)),
    "minus": ((-2.0, 0.0), (2.0, -2.0)),
    "zero": ((0.0, -1.0), (1.0, 0.0)),
}
# The columns are k₁ and k₂. The source does not say whether y or z has three components.
VERLET_KERNEL: Matrix = ((2.0, 1.0), (-1.0, 2.0), (0.0, 1.0))
READINGS: Mapping[str, str] = {"y_in_R3": "z_in_R2", "y_in_R2": "z_in_R3"}

EULER_DEPTH = 21
VERLET_DEPTHS = (20, 50, 100, 200, 500, 1000)
STARTS: tuple[Start, ...] = ("full", "half")
LONG_DEPTH = VERLET_DEPTHS[-1]
# The paper prints no γ: 0 is its formula without damping, 0.1 nearly offsets the growth of Euler.
DAMPINGS = (0.0, 0.1)


@dataclass(frozen=True)
class Trajectory:
    """The features layer by layer.

    y (N + 1, features, n), layer 0 first. A partitioned field adds z (N + 1, features, k) and the
    energy Σ log cosh(y K) + Σ log cosh(z Kᵀ), (N + 1, features).
    """

    y: Array
    z: Array | None = None
    energy: Array | None = None

    @property
    def state(self) -> Array:
        """y and z side by side, (N + 1, features, n + k); y alone where there is no z."""
        return self.y if self.z is None else np.concatenate([self.y, self.z], axis=-1)


@dataclass(frozen=True)
class Experiment:
    """One network of N identical layers, without bias, and the features (rows) sent through it."""

    integrator: Integrator
    field: SeedField
    weight: Matrix
    depth: int
    y0: Matrix = FEATURES
    step_size: float = STEP_SIZE

    def run(self) -> Trajectory:
        """The features after every layer, float64."""
        weights = _tensor(self.weight).expand(self.depth, -1, -1)
        with warnings.catch_warnings():
            # Too little damping is what is measured here: it grows 1.005 times a layer.
            warnings.simplefilter("ignore", StabilityWarning)
            states = trajectory(
                self.integrator, self.field, _tensor(self.y0), {"weight": weights}, self.step_size
            )
        parts = tuple(torch.stack(part) for part in zip(*states, strict=True))
        return Trajectory(parts[0].numpy(), *self._partner(parts))

    def arrows(self, points: Array) -> Array:
        """What moves y at each point (..., n): y' for fields of one part.

        For the Hamiltonian field y' depends on z alone, so no picture of it in y exists. Drawn
        instead is y'' at z = 0, where every feature starts: −f(y K) Kᵀ, a function of y.
        """
        field: SingleField | AntisymmetricField | SymmetricField
        if isinstance(self.field, HamiltonianField):
            field = SymmetricField(self.field.kernel, self.field.activation)
        else:
            field = self.field
        return field.rate(torch.from_numpy(points), {"weight": _tensor(self.weight)}).numpy()

    def settings(self) -> dict[str, object]:
        """Everything that determines the numbers, for the record."""
        return {
            "integrator": repr(self.integrator),
            "field": type(self.field).__name__,
            "damping": getattr(self.field, "damping", None),
            "activation": activation_from(self.field.activation).name,
            "weight": self.weight,
            "y0": self.y0,
            "depth": self.depth,
            "step_size": self.step_size,
        }

    def _partner(self, parts: tuple[Tensor, ...]) -> tuple[Array, Array] | tuple[()]:
        """z and the energy, where the field has them."""
        if not isinstance(self.field, HamiltonianField):
            return ()
        layers, features = parts[0].shape[:2]
        y, z = (part.flatten(0, 1) for part in parts)
        energy = self.field.energy(y, z, {"weight": _tensor(self.weight)})
        return parts[1].numpy(), energy.reshape(layers, features).numpy()


def experiments() -> dict[str, Experiment]:
    """All experiments by name; a slash separates the levels of ``results.json``.

    The last two are not in the paper: they follow its Fig. 2(d, e) to the depth of its Fig. 3.
    """
    return {
        **{f"euler_N{EULER_DEPTH}/{sign}": plain(KERNELS[sign]) for sign in KERNELS},
        **{
            f"antisymmetric_N{EULER_DEPTH}/{sign}_gamma_{damping}": antisymmetric(
                KERNELS[sign], damping
            )
            for sign in ("plus", "minus")
            for damping in DAMPINGS
        },
        **{f"misprint_N{EULER_DEPTH}/{sign}": misprint(sign) for sign in ("plus", "minus")},
        **{
            f"verlet/N{depth}_{start}/{reading}": verlet(depth, start, reading)
            for depth in VERLET_DEPTHS
            for start in STARTS
            for reading in READINGS
        },
        f"euler_N{LONG_DEPTH}/zero": plain(KERNELS["zero"], LONG_DEPTH),
        f"antisymmetric_N{LONG_DEPTH}/plus_gamma_0.1": antisymmetric(
            KERNELS["plus"], 0.1, LONG_DEPTH
        ),
    }


def plain(weight: Matrix, depth: int = EULER_DEPTH) -> Experiment:
    """Y ← Y + h f(Y K): the source's eq. (2), its Fig. 2(b, c, d)."""
    return Experiment(Euler(), SingleField(DenseKernel(2)), weight, depth)


def antisymmetric(weight: Matrix, damping: float, depth: int = EULER_DEPTH) -> Experiment:
    """Y ← Y + h f(½ Y (K − Kᵀ − γ I)): Fig. 2(e, f), Haber & Ruthotto 2018, eq. 4.12."""
    field = AntisymmetricField(DenseKernel(2), damping=damping)
    return Experiment(Euler(), field, weight, depth)


def misprint(sign: str) -> Experiment:
    """Y ← Y + h f(½ Y (K + Kᵀ)): the symmetric matrix that the source prints, with γ = 0."""
    weight = np.array(KERNELS[sign])
    return plain(matrix(0.5 * (weight + weight.T)))


def verlet(depth: int, start: Start, reading: str) -> Experiment:
    """Z ← Z − h f(Y K); Y ← Y + h f(Z Kᵀ), Z = 0 at the start: Fig. 3.

    ``reading`` "y_in_R3": K is the printed 3 × 2 kernel and the features get a third coordinate 0.
    "y_in_R2": K is its transpose and the features stay in the plane. Both fit the text.
    """
    weight = np.array(VERLET_KERNEL)
    features = np.array(FEATURES)
    if reading == "y_in_R3":
        features = np.pad(features, ((0, 0), (0, 1)))
    else:
        weight = weight.T
    field = HamiltonianField(DenseKernel(*weight.shape))
    return Experiment(Verlet(start), field, matrix(weight), depth, matrix(features))


def matrix(values: Array) -> Matrix:
    """An array of two axes as nested tuples, which a frozen dataclass can hold."""
    return tuple(tuple(float(value) for value in row) for row in values)


def run_all() -> dict[str, Trajectory]:
    """Every experiment's trajectory by name."""
    return {name: experiment.run() for name, experiment in experiments().items()}


def _tensor(values: Matrix) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
