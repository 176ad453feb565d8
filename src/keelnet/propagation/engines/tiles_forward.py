"""Tiles: all layers of a propagation on a few samples at a time, the state never leaving the cache.

Each thread takes tiles of S samples, channels first, through every layer; weights stream past. The
backward pass does the same from the last layer to the first: reversible methods undo each move,
others run the tile forward again and keep what they need, so no strategy stores a path outside the
tile. Both kernels read the block and the table that `layout` describes.
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
def forward(vectors: int, bend: str, double: bool) -> Any:
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
        tiles = (batch + samples - 1) // samples
        first = a[7] + me * a[8] * size
        second = first + rows_0 * samples * size
        third = second + rows_1 * samples * size
        inside = third + rows_0 * samples * size
        for tile in range(tiles * me // a[1], tiles * (me + 1) // a[1]):
            begin = tile * samples
            count = min(samples, batch - begin)
            y, z, spare = first, second, third
            gather(size, samples, a[13], a[27], begin, count, rows_0, y, True)
            gather(size, samples, a[14], a[28], begin, count, rows_1, z, True)
            for j in range(depth):
                for m in range(moves):
                    row = table + 8 * columns * m
                    scale = real(scales, m + (moves if j > 0 else 0))
                    to, of = whole(row, 1), whole(row, 2)
                    x = y if of == 0 else z
                    target = y if to == 0 else z
                    dest = spare if to == of else target
                    kind = whole(row, 0)
                    if kind == 0:
                        shift(vectors, bend, double, 0, target, x, dest, rows_0, scale)
                    else:
                        w, si, sk, n, k, u, v = linear(row, j, size)
                        if kind == 1:
                            product(vectors, bend, double, "moves", x, w, si, sk, n, k, u, v, target, dest, 0, scale)  # fmt: skip
                        else:
                            product(vectors, bend, double, "fills", x, w, si, sk, n, k, u, v, 0, inside, 0, 1.0)  # fmt: skip
                            product(vectors, "identity", double, "moves", inside, w, sk, si, k, n, 0, 0, target, dest, 0, scale)  # fmt: skip
                    if to == of:
                        y, spare = dest, y
                if a[12] != 0:
                    y, z = z, y
                if a[17] != 0 and whole(a[17], j) >= 0:
                    place = whole(a[17], j) * batch + begin
                    scatter(size, samples, y, place, count, rows_0, a[18], a[31])
                    scatter(size, samples, z, place, count, rows_1, a[19], a[32])
            scatter(size, samples, y, begin, count, rows_0, a[15], a[29])
            scatter(size, samples, z, begin, count, rows_1, a[16], a[30])

    return kernel
