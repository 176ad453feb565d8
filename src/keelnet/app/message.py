"""What the page is sent: a header in JSON, then numbers as they lie in memory, float32 where that holds them.

400 paths of 1000 layers are 3.2 MB so, and 15 MB in JSON, which takes the browser longer to read than
the layers take to compute. Where there are many points the cloud goes as a density of pixels, with its places
at some layers. Coordinates are rounded to float32, of which no pixel sees anything, or sent as float64 where they explode
past it; exports hold float64.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keelnet.analysis.courses import Course, course_of, sampled
from keelnet.analysis.outlines import outline
from keelnet.analysis.tables import plain
from keelnet.app.density import density
from keelnet.app.model import Model
from keelnet.app.paths import Paths, arrows
from keelnet.app.scene import Scene
from keelnet.app.spectra import eigenvalues
from keelnet.app.verdict import Verdict, verdict

Array = NDArray[Any]
ARROWS = 15  # along each side of the plane
GROWTHS = 128  # layers at which growth is read; all are multiplied
CURVE = 256  # layers at which a curve is drawn
MANY = 20_000  # points of the cloud: beyond, it is drawn as a density
PLACES = 101  # layers at which the places of such a cloud are known
NEAR = 4  # first features whose distances are drawn: more curves cannot be told apart
MARGIN = 1.08
SIDES = (50, 2000)
WIDEST = 1e30  # of a plane in float32: products with it still are numbers
FARTHEST = 1e300  # what is beyond is drawn there


@dataclass(frozen=True)
class Picture:
    """All that is drawn of a scene, in one plane of its coordinates, on a square of ``side`` pixels."""

    scene: Scene
    plane: tuple[int, int] = (0, 1)
    side: int = 600

    def __post_init__(self) -> None:
        if not SIDES[0] <= self.side <= SIDES[1]:
            raise ValueError(
                f"side must lie between {SIDES[0]} and {SIDES[1]} pixels, got {self.side}"
            )

    @cached_property
    def paths(self) -> Paths:
        return Paths(Model(self.scene))

    @cached_property
    def growth(self) -> Course:
        """Of each feature, or of the first point."""
        layers = sampled(self.scene.depth, GROWTHS)
        return course_of(self.paths.model.path, self.paths.parts, layers)

    @cached_property
    def verdict(self) -> Verdict:
        return verdict(self.paths, self.growth, self.eigenvalues[1])

    @cached_property
    def eigenvalues(self) -> tuple[NDArray[np.int64], NDArray[np.complex128]]:
        """Layers (S,), and λ (S, features, m) of the field where each feature is."""
        return eigenvalues(self.paths)

    @cached_property
    def _plane(self) -> Array:
        return self.paths.plane(*self.plane)

    @cached_property
    def window(self) -> float:
        """Half the side of the square around the origin that holds every path."""
        largest = float(max(self._plane.max(), -self._plane.min()))
        return min(MARGIN * largest, FARTHEST) if largest > 0 else 1.0

    def as_bytes(self) -> bytes:
        """The message; see the top of this file."""
        _ = self.window  # computed once, not by both threads
        with ThreadPoolExecutor(1) as beside:  # the density lets go of the interpreter
            drawn = beside.submit(self._drawn)
            header, arrays = self._measured()
            return packed(header, drawn.result() | arrays)

    def _measured(self) -> tuple[dict[str, Any], dict[str, Array]]:
        words, arrays = self._field()
        layers, values = self.eigenvalues
        formula, energy = self.paths.energy
        curve = sampled(self.scene.depth, CURVE)
        arrays |= {
            "curve": curve,
            "energy": energy[curve].T,
            "distances": np.array([d[curve] for _, d in self.paths.distances]),
            "growth_layers": self.growth.layers,
            "growth": self.growth.largest.T,
            "shrinking": self.growth.smallest.T,
            "eigen_layers": layers,
            "eigenvalues": np.stack([values.real, values.imag], axis=-1)[:, 0],
            "region": outline(self.paths.model.integrator),
        }
        header = {
            "verdict": plain(self.verdict),
            "window": self.window,
            "names": self.paths.names,
            "plane": self.plane,
            "features": len(self.scene.features),
            "near": NEAR,
            "depth": self.scene.depth,
            "step_size": self.scene.step_size,
            "damping": self._damping(),
            "arrows": words,
            "energy": formula,
            "squared": self.paths.model.integrator.time_order == 2,
            "query": self.scene.as_query(),
        }
        return header, arrays

    def _drawn(self) -> dict[str, Array]:
        """Paths of the features, and of the cloud its paths, or a density and its places at some layers."""
        scene, features = self.scene, len(self.scene.features)
        layers = np.arange(scene.depth + 1)
        every = _by_path(self._plane, self.window)
        found: dict[str, Array] = {"layers": layers, "paths": every[:features]}
        if scene.cloud * scene.depth <= MANY:
            return found | {"cloud_layers": layers, "cloud": every[features:]}
        places = sampled(scene.depth, PLACES)
        wide = self.window > WIDEST
        crossed: Array = every[features:] / self.window if wide else every[features:]
        ink = density(crossed, 1.0 if wide else self.window, self.side)
        return found | {"density": ink, "cloud_layers": places, "cloud": every[features:, places]}

    def _damping(self) -> float:
        return float(getattr(self.paths.model.resolved, "damping", 0.0))

    def _field(self) -> tuple[str | None, dict[str, Array]]:
        """Arrows on a grid, for the plane of y₁ and y₂: x, y, and the rate there."""
        if self.plane != (0, 1):
            return None, {}
        ticks = (np.arange(ARROWS) + 0.5) / ARROWS * 2 - 1
        points = np.stack(np.meshgrid(ticks, ticks), axis=-1) * self.window
        found = arrows(self.paths.model, points)
        if found is None:
            return None, {}
        return found[0], {"field": np.concatenate([points, found[1]], axis=-1).reshape(-1, 4)}


def _by_path(plane: Array, window: float) -> Array:
    """(paths, layers, 2): rounded first, since turning the axes of less takes less time."""
    if window > WIDEST:
        return np.ascontiguousarray(plane.transpose(1, 0, 2))
    rounded = plane.astype(np.float32)
    return (
        np.ascontiguousarray(rounded.view(np.complex64)[..., 0].T)
        .view(np.float32)
        .reshape(*plane.shape[1::-1], 2)
    )


def packed(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """uint32: the header's length; the header; the arrays, one after another; each padded to four bytes.

    The header says under ``arrays`` each one's shape and type, in their order: "u1" stays as it is, "f4" is what
    float32 holds, "f8" all else.
    """
    sent = {name: _as_sent(array) for name, array in arrays.items()}
    described = {
        name: {"shape": array.shape, "type": f"{array.dtype.kind}{array.itemsize}"}
        for name, array in sent.items()
    }
    text = _padded(json.dumps({**header, "arrays": described}, allow_nan=False).encode(), b" ")
    numbers = [_padded(array.tobytes()) for array in sent.values()]
    return b"".join([struct.pack("<I", len(text)), text, *numbers])


def _as_sent(array: Array) -> Array:
    if array.dtype in (np.uint8, np.float32):
        return np.ascontiguousarray(array)
    shown = np.clip(array, -FARTHEST, FARTHEST)
    narrow = not shown.size or max(shown.max(), -shown.min()) <= WIDEST
    return np.ascontiguousarray(shown, dtype="<f4" if narrow else "<f8")


def _padded(content: bytes, with_: bytes = b"\0") -> bytes:
    return content + with_ * (-len(content) % 4)
