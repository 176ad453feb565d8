"""Tiles: a volume labelled piece by piece, so that memory does not grow with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from keelnet.data.prepared import let_go
from keelnet.data.resampling import Space
from keelnet.learning.breakdown import BreakdownError
from keelnet.learning.modes import Modes
from keelnet.learning.regions import classes_of

Slices = tuple[slice, ...]
OUTSIDE = -30.0  # the logit of what is certainly no tumour


@dataclass(frozen=True)
class Tiling:
    """Tiles of at most ``side`` voxels along each axis; where two meet, each labels up to a rim of ``margin`` voxels
    that it only sees.

    ``unit``: the network halves a space so often that its sides must be divisible by this; beyond the volume
    there is 0, as outside the brain.
    """

    side: Space = (128, 128, 128)
    margin: int = 16
    unit: int = 8

    def __post_init__(self) -> None:
        for side in self.side:
            if side % self.unit or side <= 2 * self.margin:
                raise ValueError(
                    f"a tile's side must be divisible by {self.unit} and more than twice the margin"
                    f" {self.margin}, got {side}"
                )

    def fitted(self, space: Space) -> Tiles:
        """For this volume: as few tiles as there must be, each no larger than that asks for."""
        sides = [self._side(own, length) for own, length in zip(self.side, space, strict=True)]
        return Tiles((sides[0], sides[1], sides[2]), self.margin)

    def _side(self, own: int, length: int) -> int:
        if length <= own:
            return self._rounded(length)
        inner = length - 2 * self.margin
        tiles = -(-inner // (own - 2 * self.margin))
        return self._rounded(-(-inner // tiles) + 2 * self.margin)

    def _rounded(self, length: int) -> int:
        return -(-length // self.unit) * self.unit


@dataclass(frozen=True)
class Tiles:
    """Tiles of one size for one volume, which may be smaller than two margins."""

    side: Space
    margin: int

    def places(self, space: Space) -> Iterator[tuple[Slices, Slices]]:
        """What is labelled of the volume, and where it lies in the tile."""
        axes = [
            list(self._along(side, length)) for side, length in zip(self.side, space, strict=True)
        ]
        for cuts in itertools.product(*axes):
            yield (
                tuple(slice(first, last) for _, first, last in cuts),
                tuple(slice(first - start, last - start) for start, first, last in cuts),
            )

    def _along(self, side: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Start of each tile along an axis, and the first and last voxel that it labels."""
        done = 0
        while done < length:
            start = max(0, min(done - self.margin, length - side))
            last = length if start + side >= length else start + side - self.margin
            yield start, done, last
            done = last

    def cut(self, x: NDArray[np.floating], labelled: Slices, inside: Slices) -> NDArray[np.float32]:
        """The tile (channels, *side) in which ``labelled`` lies ``inside``."""
        tile = np.zeros((len(x), *self.side), np.float32)
        source, target = [], []
        for place, own, side, limit in zip(labelled, inside, self.side, x.shape[1:], strict=True):
            start = place.start - own.start
            stop = min(limit, start + side)
            source.append(slice(start, stop))
            target.append(slice(0, stop - start))
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
    classes = np.zeros(x.shape[1:], np.uint8)
    for target, logits in _seen(network, x, tiling, mirrored, device):
        classes[target] = classes_of(logits[None])[0].cpu().numpy()
    return classes


def logits_of(
    network: nn.Module,
    x: NDArray[np.floating],
    tiling: Tiling,
    mirrored: bool = False,
    device: torch.device | None = None,
) -> NDArray[np.float16]:
    """Logits (regions, right, anterior, superior) of a prepared volume, in half precision.

    Where no tile holds brain they are `OUTSIDE`.
    """
    found: NDArray[np.float16] | None = None
    for target, logits in _seen(network, x, tiling, mirrored, device):
        if found is None:
            found = np.full((len(logits), *x.shape[1:]), OUTSIDE, np.float16)
        # In float first: NumPy has no bfloat16.
        found[(slice(None), *target)] = logits.float().clamp(-6e4, 6e4).cpu().numpy()
    return np.full((1, *x.shape[1:]), OUTSIDE, np.float16) if found is None else found


def _seen(
    network: nn.Module,
    x: NDArray[np.floating],
    tiling: Tiling,
    mirrored: bool,
    device: torch.device | None,
) -> Iterator[tuple[Slices, Tensor]]:
    """What each tile labels, and the logits there; in evaluation mode, without gradients.

    Raises ValueError where they are not finite.
    """
    space: Space = (x.shape[1], x.shape[2], x.shape[3])
    tiles = tiling.fitted(space)
    modes = Modes(network)
    network.eval()
    try:
        with torch.inference_mode():
            for target, inside in tiles.places(space):
                tile = tiles.cut(x, target, inside)
                let_go(x)  # else memory would grow with the volume
                if tile.any():
                    batch = torch.from_numpy(tile)[None].to(device)
                    batch = batch.contiguous(memory_format=torch.channels_last_3d)
                    logits = _logits(network, batch, mirrored)[0][(slice(None), *inside)]
                    if not bool(
                        logits.isfinite().all()
                    ):  # not above 0, so it would pass for no tumour
                        raise BreakdownError(
                            "the network gives NaN or infinity on it, which says nothing of tumours; its weights"
                            " are too large or broken, so train again, with a smaller rate"
                        )
                    yield target, logits
    finally:
        modes.restore()


def _logits(network: nn.Module, tile: Tensor, mirrored: bool) -> Tensor:
    if not mirrored:
        logits: Tensor = network(tile)
        return logits
    axes = [axis for n in range(4) for axis in itertools.combinations((2, 3, 4), n)]
    total = sum(network(tile.flip(axis)).flip(axis) if axis else network(tile) for axis in axes)
    assert isinstance(total, Tensor)
    return total / len(axes)
