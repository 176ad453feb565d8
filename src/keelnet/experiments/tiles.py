"""Tiles: a volume labelled piece by piece, so that memory does not grow with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from keelnet.learning.regions import classes_of

Space = tuple[int, int, int]


@dataclass(frozen=True)
class Tiling:
    """Tiles of ``side`` voxels along each axis, of which a rim of ``margin`` is seen and not labelled.

    Beyond the volume there is 0, as outside the brain. ``unit``: the network halves a space so often that
    its sides must be divisible by this.
    """

    side: Space = (96, 96, 96)
    margin: int = 16
    unit: int = 8

    def __post_init__(self) -> None:
        for side in self.side:
            if side % self.unit or side <= 2 * self.margin:
                raise ValueError(
                    f"a tile's side must be divisible by {self.unit} and more than twice the margin"
                    f" {self.margin}, got {side}"
                )

    def fitted(self, space: Space) -> Tiling:
        """For a volume that is smaller than a tile along an axis: no longer than it needs to be."""
        whole = [-(-(side + 2 * self.margin) // self.unit) * self.unit for side in space]
        sides = [min(own, need) for own, need in zip(self.side, whole, strict=True)]
        return Tiling((sides[0], sides[1], sides[2]), self.margin, self.unit)

    def places(self, space: Space) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """What is labelled of the volume, and where it lies in the tile."""
        cores = [side - 2 * self.margin for side in self.side]
        starts = [range(0, side, core) for side, core in zip(space, cores, strict=True)]
        for start in itertools.product(*starts):
            stops = [min(s + c, side) for s, c, side in zip(start, cores, space, strict=True)]
            yield (
                tuple(slice(a, b) for a, b in zip(start, stops, strict=True)),
                tuple(
                    slice(self.margin, self.margin + b - a)
                    for a, b in zip(start, stops, strict=True)
                ),
            )

    def cut(self, x: NDArray[np.floating], labelled: tuple[slice, ...]) -> NDArray[np.float32]:
        """The tile (4, *side) around what is to be labelled."""
        tile = np.zeros((len(x), *self.side), np.float32)
        source, target = [], []
        for place, side, limit in zip(labelled, self.side, x.shape[1:], strict=True):
            begin = place.start - self.margin
            first, last = max(0, begin), min(limit, begin + side)
            source.append(slice(first, last))
            target.append(slice(first - begin, last - begin))
        tile[(slice(None), *target)] = x[(slice(None), *source)]
        return tile


def labelled(
    network: nn.Module,
    x: NDArray[np.floating],
    tiling: Tiling,
    mirrored: bool = False,
    device: torch.device | None = None,
) -> NDArray[np.uint8]:
    """Classes (right, anterior, superior) of a prepared volume x (4, …), tile by tile.

    Only tiles that hold brain are shown to the network; ``mirrored`` averages the logits of all eight
    mirror images. Logits of the whole volume never exist.
    """
    space: Space = (x.shape[1], x.shape[2], x.shape[3])
    tiling = tiling.fitted(space)
    classes = np.zeros(space, np.uint8)
    mode = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for target, inside in tiling.places(space):
                tile = tiling.cut(x, target)
                if tile.any():
                    logits = _logits(network, torch.from_numpy(tile)[None].to(device), mirrored)
                    classes[target] = classes_of(logits)[0].cpu().numpy()[inside]
    finally:
        network.train(mode)
    return classes


def _logits(network: nn.Module, tile: Tensor, mirrored: bool) -> Tensor:
    if not mirrored:
        logits: Tensor = network(tile)
        return logits
    axes = [axis for n in range(4) for axis in itertools.combinations((2, 3, 4), n)]
    total = sum(network(tile.flip(axis)).flip(axis) if axis else network(tile) for axis in axes)
    assert isinstance(total, Tensor)
    return total / len(axes)
