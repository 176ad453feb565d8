"""The way back through the tiles: see `tiles_forward`."""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, types

from keelnet.propagation.engines.lanes import BYTES
from keelnet.propagation.engines.layout import Column, Slot
from keelnet.propagation.engines.memory import put, real, ticket, whole
from keelnet.propagation.engines.microkernels import product, shift
from keelnet.propagation.engines.tile_parts import gather, linear, scatter
from keelnet.propagation.engines.tile_pull import pulled_back
from keelnet.propagation.engines.tile_sources import compiled, digest

_BLOCK = types.void(types.CPointer(types.int64))


@functools.cache
def backward(vectors: int, bend: str, double: bool) -> Any:
    """The compiled backward kernel: gradients of the first state and, a thread, of every control."""
    size = 8 if double else 4
    lanes = BYTES // size
    samples = vectors * lanes
    source = digest()
    columns, slots = int(Column.COUNT), int(Slot.COUNT)

    @compiled(_BLOCK)
    def kernel(block):  # type: ignore[no-untyped-def]
        a = carray(block, slots)
        if source == "":
            return
        me = ticket(a[0])
        batch, depth, moves, table, scales = a[2], a[3], a[4], a[5], a[6]
        rows_0, rows_1 = a[9], a[10]
        tall = samples * size
        tiles = (batch + samples - 1) // samples
        first = a[7] + me * a[8] * size
        second = first + rows_0 * tall
        pull_0 = second + rows_1 * tall
        pull_1 = pull_0 + rows_0 * tall
        inside = pull_1 + rows_1 * tall
        bent = inside + a[11] * tall
        record = bent + a[11] * tall
        pointers = a[26] + me * 8 * moves * depth
        undoes = a[20] != 0
        for tile in range(tiles * me // a[1], tiles * (me + 1) // a[1]):
            begin = tile * samples
            count = min(samples, batch - begin)
            y, z = first, second
            ly, lz = pull_0, pull_1
            gather(size, samples, a[13], a[27], begin, count, rows_0, y, True)
            gather(size, samples, a[14], a[28], begin, count, rows_1, z, True)
            gather(size, samples, a[21], a[33], begin, count, rows_0, ly, False)
            gather(size, samples, a[22], a[34], begin, count, rows_1, lz, False)
            if not undoes:
                for j in range(depth):
                    for m in range(moves):
                        row = table + 8 * columns * m
                        scale = real(scales, m + (moves if j > 0 else 0))
                        to, of = whole(row, 1), whole(row, 2)
                        x = y if of == 0 else z
                        target = y if to == 0 else z
                        kind = whole(row, 0)
                        dest = record + (j * a[25] + whole(row, 17)) * tall
                        put(pointers, j * moves + m, x)
                        if kind == 0:
                            shift(vectors, bend, double, 0, target, x, dest, rows_0, scale)
                        else:
                            w, si, sk, n, k, u, v = linear(row, j, size)
                            kept = record + (j * a[25] + whole(row, 18)) * tall
                            if kind == 1:
                                product(vectors, bend, double, "moves and keeps", x, w, si, sk, n, k, u, v, target, dest, kept, scale)  # fmt: skip
                            else:
                                product(vectors, bend, double, "keeps", x, w, si, sk, n, k, u, v, 0, 0, kept, 1.0)  # fmt: skip
                                product(vectors, "identity", double, "moves", kept, w, sk, si, k, n, 0, 0, target, dest, 0, scale)  # fmt: skip
                        if to == 0:
                            y = dest
                        else:
                            z = dest
                    if a[12] != 0:
                        y, z = z, y
            for back in range(depth):
                j = depth - 1 - back
                if a[12] != 0:
                    y, z = z, y
                    ly, lz = lz, ly
                for other in range(moves):
                    m = moves - 1 - other
                    row = table + 8 * columns * m
                    scale = real(scales, m + (moves if j > 0 else 0))
                    to, of = whole(row, 1), whole(row, 2)
                    target = y if to == 0 else z
                    x = y if of == 0 else z
                    if not undoes:
                        x = whole(pointers, j * moves + m)
                    pulled = ly if to == 0 else lz
                    onto = ly if of == 0 else lz
                    kind = whole(row, 0)
                    if kind == 0:
                        if undoes:
                            shift(vectors, bend, double, 0, target, x, target, rows_0, -scale)
                        shift(vectors, bend, double, 0, onto, pulled, onto, rows_0, scale)
                    else:
                        w, si, sk, n, k, u, v = linear(row, j, size)
                        kept = inside
                        if not undoes:
                            kept = record + (j * a[25] + whole(row, 18)) * tall
                        elif kind == 1:
                            product(vectors, bend, double, "moves and keeps", x, w, si, sk, n, k, u, v, target, target, kept, -scale)  # fmt: skip
                        else:
                            product(vectors, bend, double, "keeps", x, w, si, sk, n, k, u, v, 0, 0, kept, 1.0)  # fmt: skip
                            product(vectors, "identity", double, "moves", kept, w, sk, si, k, n, 0, 0, target, target, 0, -scale)  # fmt: skip
                        pulled_back(vectors, bend, double, row, j, me, x, kept, pulled, bent, onto, scale)  # fmt: skip
            scatter(size, samples, ly, begin, count, rows_0, a[23], a[35])
            scatter(size, samples, lz, begin, count, rows_1, a[24], a[36])

    return kernel
