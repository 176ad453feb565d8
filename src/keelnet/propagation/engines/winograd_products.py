"""Products of 3 × 3 (× 3) convolutions by Winograd's filtering: a quarter of the multiplications.

States are (batch, channels, *space) with their channels last in memory, float32, on the processor; in
depth the stencil is summed as it is. An error is below 2e-6 of the largest number of the result where
inputs are of one size (direct: 0.7e-6); not finite numbers spread over their tile of 4 × 4 points.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from keelnet.dynamics.kernels import ConvKernel
from keelnet.propagation.engines import pool
from keelnet.propagation.engines.compiler import has_numba
from keelnet.propagation.engines.threads import launch_all

LARGEST = 128  # channels; above, spread weights leave the caches
LEAST = 1 << 10  # points, below which a launch and spread weights cost what is won
_WASTE = 1.5  # points of whole tiles for each that there is, at most
_WORTH = 1 << 20  # multiplications that are worth a thread of their own
_SUMS = 1 << 23  # numbers that threads may sum apart, where the states hold fewer


def takes(kernel: ConvKernel, x: Tensor) -> bool:
    """Whether these convolutions of this state are faster so than by oneDNN."""
    shaped = kernel.dim in (2, 3) and kernel.groups == 1 and kernel.stencils[-2:] == (3, 3)
    channels = kernel.inputs, kernel.outputs
    if (
        not shaped
        or kernel.stencils[0] > 3
        or any((c % 8 and c != 4) or c > LARGEST for c in channels)
    ):
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    points, wasted = math.prod(x.shape[-2:]), 16 * _tiles(x)
    return x.numel() // x.shape[1] >= LEAST and wasted <= _WASTE * points and _has_vectors()


@functools.cache
def _has_vectors() -> bool:
    """Numba, and instructions on eight numbers that multiply and add at once."""
    if not has_numba():
        return False
    from keelnet.propagation.engines.lanes import FEATURES

    return {"avx2", "fma"} <= FEATURES


def spread_weight(weight: Tensor) -> Tensor:
    """(outputs, inputs, *stencil) as `winograd_weights` lays it: for each product of a tile."""
    from keelnet.propagation.engines.winograd_weights import spreading

    deep = _deep(weight.detach()).resolve_neg()
    outputs, inputs, taps = deep.shape[:3]
    lanes = _lanes(inputs, outputs)
    spread = pool.empty((36, outputs // lanes, taps, inputs, lanes), torch.float32)
    strides = dict(zip(_STRIDES, deep.stride(), strict=True))
    sizes = {"INPUTS": inputs, "OUTPUTS": outputs, "TAPS": taps}
    _run(spreading(lanes), 1, **sizes, **strides, X=deep.data_ptr(), WEIGHT=spread.data_ptr())
    return spread


_STRIDES = ("BY_OUTPUT", "BY_INPUT", "BY_TAP", "BY_ROW", "BY_COLUMN")


def product(x: Tensor, spread: Tensor) -> Tensor:
    """L x, a new tensor."""
    outputs = spread.shape[1] * spread.shape[4]
    y = pool.empty((len(x), *x.shape[2:], outputs), torch.float32).movedim(-1, 1)
    _multiply(x, spread, y, 1.0, adds=False)
    return y


def add_product(x: Tensor, spread: Tensor, onto: Tensor, factor: float = 1.0) -> None:
    """onto += factor L x; the channels of ``onto`` lie last."""
    _multiply(x, spread, onto, factor, adds=True)


def weight_gradient(x: Tensor, g: Tensor, weight: Tensor, factor: float, fresh: bool) -> None:
    """weight += factor · the gradient of ⟨g, L x⟩, or = if ``fresh``; the weight is contiguous."""
    from keelnet.propagation.engines.winograd_kernels import gradient
    from keelnet.propagation.engines.winograd_weights import gathering

    taps = _deep(weight).shape[2]
    sizes = _sizes(x, g.shape[1], taps)
    lanes, own = _lanes(x.shape[1], g.shape[1]), 36 * taps * x.shape[1] * g.shape[1]
    threads = min(_threads(sizes), max(_SUMS, x.numel() + g.numel()) // own)
    sums = pool.zeros((threads, own), torch.float32)
    sizes["CHUNK"] = _chunk(_tiles(x), sizes["BATCH"] * sizes["DEPTH"], threads)
    scratch, share = _scratch(lanes, sizes, threads)
    places = {"SCRATCH": scratch.data_ptr(), "SHARE": share, "WEIGHT": sums.data_ptr()}
    _run(gradient(lanes), threads, **sizes, **places, X=x.data_ptr(), Y=g.data_ptr())
    scale = np.array([factor], np.float64)
    asked = {"FACTOR": scale.ctypes.data, "FRESH": int(fresh), "PARTS": threads}
    asked |= {"WEIGHT": sums.data_ptr(), "Y": weight.data_ptr()}
    _run(gathering(lanes), 1, **sizes, **asked)


def _multiply(x: Tensor, spread: Tensor, y: Tensor, factor: float, adds: bool) -> None:
    from keelnet.propagation.engines.winograd_kernels import product as kernel_of

    lanes = spread.shape[4]
    sizes = _sizes(x, y.shape[1], spread.shape[2])
    threads = _threads(sizes)
    sizes["CHUNK"] = _chunk(_tiles(x), sizes["BATCH"] * sizes["DEPTH"], threads)
    scratch, share = _scratch(lanes, sizes, threads)
    scale = np.array([factor], np.float64)
    places = {"SCRATCH": scratch.data_ptr(), "SHARE": share, "WEIGHT": spread.data_ptr()}
    places |= {"X": x.data_ptr(), "Y": y.data_ptr(), "FACTOR": scale.ctypes.data}
    _run(kernel_of(lanes), threads, **sizes, **places, ADDS=int(adds))


def _run(kernel: object, threads: int, **slots: int) -> None:
    from keelnet.propagation.engines.winograd_slots import Slot

    block = np.zeros(int(Slot.COUNT), np.int64)
    for name, value in slots.items():
        block[Slot[name]] = value
    block[Slot.THREADS] = threads
    launch_all(kernel.address, block, int(Slot.TICKET), threads)  # type: ignore[attr-defined]


def _deep(weight: Tensor) -> Tensor:
    """Stencils of two dimensions as those of three, one deep."""
    return weight.unsqueeze(2) if weight.ndim == 4 else weight


def _lanes(inputs: int, outputs: int) -> int:
    """Channels in a block: a vector, the longest that they divide into.

    Four channels fill a quarter of a long vector, as they do in oneDNN; fewer multiplications are still won.
    """
    from keelnet.propagation.engines.lanes import BYTES

    if inputs % 8 or outputs % 8:
        return 4
    return 8 if inputs % 16 or outputs % 16 else BYTES // 4


def _tiles(x: Tensor) -> int:
    """Of one plane, 4 × 4 points each."""
    return -(-x.shape[-2] // 4) * -(-x.shape[-1] // 4)


def _sizes(x: Tensor, outputs: int, taps: int) -> dict[str, int]:
    depth = x.shape[2] if x.ndim == 5 else 1
    sizes = {"BATCH": len(x), "DEPTH": depth, "HEIGHT": x.shape[-2], "WIDTH": x.shape[-1]}
    return sizes | {"INPUTS": x.shape[1], "OUTPUTS": outputs, "TAPS": taps}


def _threads(sizes: dict[str, int]) -> int:
    return max(1, min(torch.get_num_threads(), math.prod(sizes.values()) // _WORTH))


@functools.lru_cache(1024)
def _chunk(tiles: int, planes: int, threads: int) -> int:
    """Tiles taken together: least work for the thread that has most; a chunk costs two tiles more."""
    from keelnet.propagation.engines.winograd_tiles import ROOM, ROWS

    def cost(chunk: int) -> tuple[int, int]:
        jobs = -(-planes * -(-tiles // chunk) // threads)
        return jobs * (chunk + 2), -chunk

    return min(range(ROWS[-1], ROOM + 1, ROWS[-1]), key=cost)


def _scratch(lanes: int, sizes: dict[str, int], threads: int) -> tuple[Tensor, int]:
    """Memory for all threads, and the numbers that each has."""
    from keelnet.propagation.engines.winograd_tiles import block_of

    channels = sizes["TAPS"] * sizes["INPUTS"] + sizes["OUTPUTS"]
    share = channels // lanes * block_of(lanes) + 36 * max(sizes["INPUTS"], sizes["OUTPUTS"]) + 64
    return pool.empty((threads * share,), torch.float32), share
