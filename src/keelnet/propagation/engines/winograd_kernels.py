"""Kernels of Winograd's convolution: L x, and the gradient of the weight, tiles of a plane at a time.

A thread takes a chunk of tiles of a plane down the depth: it spreads the plane ahead, multiplies the
planes that the stencil reaches, product by product, and gathers. The next plane is fetched meanwhile.
In two dimensions there is one plane and one tap. All kernels read the block that `winograd_slots`
describes; threads share chunks and planes in order, so sums depend on their number alone.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, types
from numba.extending import register_jitable

from keelnet.propagation.engines.memory import fetch, real, ticket
from keelnet.propagation.engines.tile_sources import compiled, digest
from keelnet.propagation.engines.winograd_slots import Slot
from keelnet.propagation.engines.winograd_tiles import (
    block_of,
    fill,
    gather,
    multiply,
    outer,
    put,
    spread,
    step_of,
)

_BLOCK = types.void(types.CPointer(types.int64))


@register_jitable
def _spread_plane(lanes, kind, size, x, height, width, channels, first, many, patch, dest):  # type: ignore[no-untyped-def]  # fmt: skip
    """Tiles first … first + many − 1 of the plane at x; those that reach past its edge by way of ``patch``."""
    blocks, row, across = channels // lanes, width * channels, (width + 3) // 4
    before = 1 if size == 6 else 0
    i = first // across
    j = first - i * across
    for t in range(many):
        top, left, to = 4 * i - before, 4 * j - before, dest + 4 * t * lanes
        if top >= 0 and left >= 0 and top + size <= height and left + size <= width:
            spread(lanes, kind, x + 4 * (top * row + left * channels), row, channels, blocks, to)
        else:
            fill(lanes, size, x, row, channels, top, left, height, width, blocks, patch)
            spread(lanes, kind, patch, size * channels, channels, blocks, to)
        j += 1
        if j == across:
            i, j = i + 1, 0


@register_jitable
def _multiply_all(lanes, v0, v1, v2, taps, blocks, weight, m, many):  # type: ignore[no-untyped-def]
    """One product of the chunk's tiles, for one block of outputs."""
    r = 0
    while r + 4 < many:
        at = 4 * r * lanes
        multiply(lanes, 8, v0 + at, v1 + at, v2 + at, taps, blocks, weight, m + at)
        r += 8
    if r < many:
        at = 4 * r * lanes
        multiply(lanes, 4, v0 + at, v1 + at, v2 + at, taps, blocks, weight, m + at)


@register_jitable
def _gather_plane(lanes, m, block, y, height, width, channels, first, many, patch, adds, factor):  # type: ignore[no-untyped-def]  # fmt: skip
    """The chunk's outputs to where they belong in the plane at y."""
    row, across = width * channels, (width + 3) // 4
    i = first // across
    j = first - i * across
    for t in range(many):
        rows, columns = min(4, height - 4 * i), min(4, width - 4 * j)
        for o in range(channels // lanes):
            to = y + 4 * (4 * i * row + 4 * j * channels + o * lanes)
            gather(lanes, m + 4 * (o * block + t * lanes), patch)
            if adds != 0:
                put(lanes, True, patch, to, row, channels, rows, columns, factor)
            else:
                put(lanes, False, patch, to, row, channels, rows, columns, factor)
        j += 1
        if j == across:
            i, j = i + 1, 0


@register_jitable
def _stretch(plane, height, width, channels, first, many, halo):  # type: ignore[no-untyped-def]
    """Where the rows that the chunk reads begin, and a 36th of their bytes."""
    across = (width + 3) // 4
    top = max(4 * (first // across) - halo, 0)
    bottom = min(4 * ((first + many - 1) // across) + 4 + halo, height)
    size = 4 * width * channels
    return plane + top * size, ((bottom - top) * size + 35) // 36


@functools.cache
def product(lanes: int) -> Any:
    """The compiled kernel of Y = L X or Y += factor L X; cached on disk by Numba."""
    source, slots, block, step = digest(), int(Slot.COUNT), block_of(lanes), step_of(lanes)

    @compiled(_BLOCK)
    def kernel(arguments):  # type: ignore[no-untyped-def]
        a = carray(arguments, slots)
        if source == "":  # a part of the cache's key
            return
        me = ticket(a[Slot.TICKET])
        depth, height, width, chunk = a[Slot.DEPTH], a[Slot.HEIGHT], a[Slot.WIDTH], a[Slot.CHUNK]
        inputs, outputs, taps = a[Slot.INPUTS], a[Slot.OUTPUTS], a[Slot.TAPS]
        blocks, wide, half = inputs // lanes, outputs // lanes, taps // 2
        tiles = (height + 3) // 4 * ((width + 3) // 4)
        chunks = (tiles + chunk - 1) // chunk
        patch = a[Slot.SCRATCH] + 4 * me * a[Slot.SHARE]
        m = patch + 4 * 36 * max(inputs, outputs)
        v, ring = m + 4 * wide * block, 4 * blocks * block
        read, written = 4 * height * width * inputs, 4 * height * width * outputs
        jobs = a[Slot.BATCH] * chunks * depth
        begin, end = jobs * me // a[Slot.THREADS], jobs * (me + 1) // a[Slot.THREADS]
        for job in range(begin, end):
            d, item = job % depth, job // depth
            first, before = item % chunks * chunk, item // chunks * depth
            many = min(chunk, tiles - first)
            low, high = max(d - half, 0), min(d + half, depth - 1)
            for p in range(low if job == begin or d == 0 else d + half, high + 1):
                _spread_plane(lanes, "inputs", 6, a[Slot.X] + (before + p) * read, height, width, inputs, first, many, patch, v + p % taps * ring)  # fmt: skip
            ahead, share = _stretch(a[Slot.X] + (before + d + half + 1) * read, height, width, inputs, first, many, 1)  # fmt: skip
            onto, part = _stretch(a[Slot.Y] + (before + d) * written, height, width, outputs, first, many, 0)  # fmt: skip
            v0, v1, v2 = v + low % taps * ring, v + (low + 1) % taps * ring, v + (low + 2) % taps * ring  # fmt: skip
            weight = a[Slot.WEIGHT] + 4 * (low - d + half) * inputs * lanes
            for f in range(36):
                at = 4 * f * step
                if high == d + half and high + 1 < depth:
                    fetch(ahead + f * share, share)
                fetch(onto + f * part, part)
                for o in range(wide):
                    _multiply_all(lanes, v0 + at, v1 + at, v2 + at, high - low + 1, blocks, weight, m + at + 4 * o * block, many)  # fmt: skip
                    weight += 4 * taps * inputs * lanes
            _gather_plane(lanes, m, block, a[Slot.Y] + (before + d) * written, height, width, outputs, first, many, patch, a[Slot.ADDS], real(a[Slot.FACTOR], 0))  # fmt: skip

    return kernel


@functools.cache
def gradient(lanes: int) -> Any:
    """The compiled kernel of the sums of a weight's gradient, each thread apart; cached on disk by Numba."""
    source, slots, block, step = digest(), int(Slot.COUNT), block_of(lanes), step_of(lanes)

    @compiled(_BLOCK)
    def kernel(arguments):  # type: ignore[no-untyped-def]
        a = carray(arguments, slots)
        if source == "":  # a part of the cache's key
            return
        me = ticket(a[Slot.TICKET])
        depth, height, width, chunk = a[Slot.DEPTH], a[Slot.HEIGHT], a[Slot.WIDTH], a[Slot.CHUNK]
        inputs, outputs, taps = a[Slot.INPUTS], a[Slot.OUTPUTS], a[Slot.TAPS]
        blocks, wide, half = inputs // lanes, outputs // lanes, taps // 2
        tiles = (height + 3) // 4 * ((width + 3) // 4)
        chunks = (tiles + chunk - 1) // chunk
        patch = a[Slot.SCRATCH] + 4 * me * a[Slot.SHARE]
        m = patch + 4 * 36 * max(inputs, outputs)
        v, ring = m + 4 * wide * block, 4 * blocks * block
        sums = a[Slot.WEIGHT] + 4 * 36 * me * taps * inputs * outputs
        read, pulled = 4 * height * width * inputs, 4 * height * width * outputs
        jobs = a[Slot.BATCH] * chunks * depth
        begin, end = jobs * me // a[Slot.THREADS], jobs * (me + 1) // a[Slot.THREADS]
        for job in range(begin, end):
            d, item = job % depth, job // depth
            first, before = item % chunks * chunk, item // chunks * depth
            many = min(chunk, tiles - first)
            low, high = max(d - half, 0), min(d + half, depth - 1)
            for p in range(low if job == begin or d == 0 else d + half, high + 1):
                _spread_plane(lanes, "inputs", 6, a[Slot.X] + (before + p) * read, height, width, inputs, first, many, patch, v + p % taps * ring)  # fmt: skip
            _spread_plane(lanes, "outputs", 4, a[Slot.Y] + (before + d) * pulled, height, width, outputs, first, many, patch, m)  # fmt: skip
            ahead, share = _stretch(a[Slot.X] + (before + d + half + 1) * read, height, width, inputs, first, many, 1)  # fmt: skip
            beyond, part = _stretch(a[Slot.Y] + (before + d + 1) * pulled, height, width, outputs, first, many, 0)  # fmt: skip
            for f in range(36):
                at = 4 * f * step
                if d + 1 < depth:
                    fetch(beyond + f * part, part)
                    if d + half + 1 < depth:
                        fetch(ahead + f * share, share)
                for o in range(wide):
                    for p in range(low, high + 1):
                        total = sums + 4 * lanes * inputs * ((f * wide + o) * taps + p - d + half)
                        for i in range(blocks):
                            x = v + p % taps * ring + at + 4 * i * block
                            outer(lanes, x, m + at + 4 * o * block, many, total + 4 * i * lanes * lanes)  # fmt: skip

    return kernel
