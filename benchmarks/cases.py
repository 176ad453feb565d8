"""Cases: the sizes of one propagation, its numbers from a seed, and what storing it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

Array = np.ndarray
Pass = Literal["forward", "forward + backward"]
FORWARD: Pass = "forward"
BACKWARD: Pass = "forward + backward"

_CHECKED_ROWS = 64


@dataclass(frozen=True)
class Case:
    """tanh layers with a weight each and no bias, float32: Euler on one part or Verlet on two.

    Euler: y ← y + h tanh(y K). Verlet: z ← z − h tanh(y K), then y ← y + h tanh(z Kᵀ).
    ``inputs`` and ``outputs`` are the channels that K reads and writes; ``dim`` 0 is dense, 2 or 3
    a convolution on ``side`` points an axis. ``split``: y0 holds y and z, else z starts at 0.
    """

    section: str
    scheme: Literal["euler", "verlet"]
    inputs: int
    outputs: int
    batch: int
    depth: int
    step_size: float
    dim: int = 0
    side: int = 0
    split: bool = False

    @property
    def name(self) -> str:
        """As the tables show it."""
        grid = f" × {self.side}{'²³'[self.dim - 2]}" if self.dim else ""
        width = f"{self.inputs}" if self.inputs == self.outputs else f"{self.inputs}→{self.outputs}"
        return f"{self.scheme}, width {width}{grid}, batch {self.batch}, depth {self.depth}"

    @property
    def key(self) -> str:
        """As a file name has it."""
        sizes = (self.inputs, self.outputs, self.batch, self.depth, self.dim, self.side)
        return "-".join([self.section, self.scheme, *map(str, sizes)])

    @property
    def space(self) -> tuple[int, ...]:
        return (self.side,) * self.dim

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of all layers: (N, in, out) as y @ K has it, or (N, out, in, 3, …)."""
        if not self.dim:
            return (self.depth, self.inputs, self.outputs)
        return (self.depth, self.outputs, self.inputs, *(3,) * self.dim)

    @property
    def y0_shape(self) -> tuple[int, ...]:
        channels = self.inputs + self.outputs if self.split else self.inputs
        return (self.batch, channels, *self.space)

    @property
    def points(self) -> int:
        """Places at which a layer acts: samples times voxels."""
        return self.batch * math.prod(self.space)

    @property
    def state_size(self) -> int:
        """Numbers in the whole state."""
        halves = self.inputs + self.outputs if self.scheme == "verlet" else self.inputs
        return self.points * halves

    @property
    def activations(self) -> int:
        """Values of tanh in one forward pass."""
        return self.depth * self.state_size

    def stored_bytes(self, method: str, pass_: Pass) -> int:
        """Predicted: two states a layer where all are kept, weights and their gradients once."""
        weights = 4 * math.prod(self.weight_shape)
        if pass_ == FORWARD:
            return weights + 8 * self.state_size
        if method in ("reversible", "coupling", "adjoint"):
            kept = 6.0
        elif method in ("checkpointed", "checkpoint"):
            kept = 3.0 * math.sqrt(self.depth) + 4
        else:
            kept = 2.0 * self.depth
        return int(2 * weights + 4 * self.state_size * kept)

    def shrunk(self) -> Case:
        """The same layers on a grid that a float64 reference can afford."""
        return replace(self, side=min(self.side, 16)) if self.dim else self

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def numbers(case: Case, seed: int = 0) -> dict[str, Array]:
    """y0, the weights of all layers and a cotangent of y(T), float32.

    K has entries of variance 1 / fan-in, so the spectrum of each layer stays of order 1.
    """
    random = np.random.default_rng(seed)
    fan_in = case.inputs * 3**case.dim
    weight = random.standard_normal(case.weight_shape, dtype=np.float32)
    weight *= np.float32(1 / math.sqrt(fan_in))
    return {
        "weight": weight,
        "y0": random.standard_normal(case.y0_shape, dtype=np.float32),
        "cotangent": random.standard_normal(case.y0_shape, dtype=np.float32),
    }


def write(case: Case, folder: Path) -> None:
    """One file a name, so that the workers can map them into memory and share their pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in numbers(case).items():
        np.save(folder / f"{name}.npy", value)


def read(folder: Path) -> dict[str, Array]:
    """Copy-on-write maps of what ``write`` wrote."""
    names = ("weight", "y0", "cotangent")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in names}


def checked_rows(case: Case) -> int:
    """Samples that are compared with the reference; they do not depend on the others."""
    return case.batch if case.dim else min(case.batch, _CHECKED_ROWS)


def masked(case: Case, cotangent: Array) -> Array:
    """The cotangent with zeros outside the checked samples: only they enter the gradient."""
    result = np.zeros_like(cotangent)
    rows = checked_rows(case)
    result[:rows] = cotangent[:rows]
    return result


def error(found: Mapping[str, Array], wanted: Mapping[str, Array], name: str) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    difference = found[name].astype(np.float64) - wanted[name]
    return float(np.linalg.norm(difference) / np.linalg.norm(wanted[name]))
