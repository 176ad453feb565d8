"""Methods in stages on tiles: all layers on a few samples at a time, every part moved at once.

A stage reads one state and leaves the slope k of each part; two shifts then give the state that the
next stage reads and what the layer has come to so far. Block, table and tiles are those of
`tiles_forward`.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, types

from keelnet.propagation.engines.lanes import BYTES
from keelnet.propagation.engines.layout import Column, Slot
from keelnet.propagation.engines.memory import real, ticket, whole
from keelnet.propagation.engines.microkernels import product, shift
from keelnet.propagation.engines.tile_parts import gather, linear, scatter
from keelnet.propagation.engines.tile_sources import compiled, digest

_BLOCK = types.void(types.CPointer(types.int64))


@functools.cache
def stages_forward(vectors: int, bend: str, double: bool) -> Any:
    """The compiled forward kernel on tiles of ``vectors`` vectors; cached on disk by Numba."""
    size = 8 if double else 4
    lanes = BYTES // size
    samples = vectors * lanes
    source = digest()
    columns, slots = int(Column.COUNT), int(Slot.COUNT)

    @compiled(_BLOCK)
    def kernel(block):  # type: ignore[no-untyped-def]
        a = carray(block, slots)
        if source == "":  # a part of the cache's key
            return
        me = ticket(a[0])
        batch, depth, moves, table, scales = a[2], a[3], a[4], a[5], a[6]
        rows_0, rows_1 = a[9], a[10]
        stages, ahead, weights = a[37], a[38], a[39]
        tiles = (batch + samples - 1) // samples
        high, wide = rows_0 * samples * size, rows_1 * samples * size
        first = a[7] + me * a[8] * size
        for tile in range(tiles * me // a[1], tiles * (me + 1) // a[1]):
            begin = tile * samples
            count = min(samples, batch - begin)
            # The state before the layer, after it, as a stage reads it, and the slopes.
            y, end_y, at_y, k_y = first, first + high, first + 2 * high, first + 3 * high
            z = first + 4 * high
            end_z, at_z, k_z = z + wide, z + 2 * wide, z + 3 * wide
            inside = z + 4 * wide
            gather(size, samples, a[13], a[27], begin, count, rows_0, y, True)
            gather(size, samples, a[14], a[28], begin, count, rows_1, z, True)
            for j in range(depth):
                for stage in range(stages):
                    for m in range(moves):
                        row = table + 8 * columns * m
                        x = at_y if whole(row, 2) == 0 else at_z
                        if stage == 0:
                            x = y if whole(row, 2) == 0 else z
                        k = k_y if whole(row, 1) == 0 else k_z
                        w, si, sk, n, inner, u, v = linear(row, j, size)
                        if whole(row, 0) == 1:
                            product(vectors, bend, double, "fills", x, w, si, sk, n, inner, u, v, 0, k, 0, real(scales, m))  # fmt: skip
                        else:
                            product(vectors, bend, double, "fills", x, w, si, sk, n, inner, u, v, 0, inside, 0, 1.0)  # fmt: skip
                            product(vectors, "identity", double, "fills", inside, w, sk, si, inner, n, 0, 0, 0, k, 0, real(scales, m))  # fmt: skip
                    weight = real(weights, stage)
                    shift(vectors, bend, double, 0, y if stage == 0 else end_y, k_y, end_y, rows_0, weight)  # fmt: skip
                    shift(vectors, bend, double, 0, z if stage == 0 else end_z, k_z, end_z, rows_1, weight)  # fmt: skip
                    if stage + 1 < stages:
                        step = real(ahead, stage + 1)
                        shift(vectors, bend, double, 0, y, k_y, at_y, rows_0, step)
                        shift(vectors, bend, double, 0, z, k_z, at_z, rows_1, step)
                y, end_y = end_y, y
                z, end_z = end_z, z
                if a[17] != 0 and whole(a[17], j) >= 0:
                    place = whole(a[17], j) * batch + begin
                    scatter(size, samples, y, place, count, rows_0, a[18], a[31])
                    scatter(size, samples, z, place, count, rows_1, a[19], a[32])
            scatter(size, samples, y, begin, count, rows_0, a[15], a[29])
            scatter(size, samples, z, begin, count, rows_1, a[16], a[30])

    return kernel
