"""Blocks: all layers on as many tiles as the cache next to a processor holds, layer after layer.

Each thread takes chunks of tiles of S samples, channels first, through every layer: of each move it
packs the weight once and lets all tiles of the chunk pass. Products, activation and move are one pass
over a tile, and the tiles never leave the cache; what a backward pass needs is written past it.
No thread waits for another. Both kernels read the block and the table that `block_layout` and `layout`
describe.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, types

from keelnet.propagation.engines.block_layout import BlockSlot as Slot
from keelnet.propagation.engines.block_parts import biases, load, pack_both, unload
from keelnet.propagation.engines.lanes import BYTES
from keelnet.propagation.engines.layout import Column
from keelnet.propagation.engines.memory import fetch, real, ticket, whole
from keelnet.propagation.engines.microkernels import shift
from keelnet.propagation.engines.panels import PANEL, VECTORS, panels
from keelnet.propagation.engines.tile_parts import linear
from keelnet.propagation.engines.tile_sources import compiled, digest

_BLOCK = types.void(types.CPointer(types.int64))


@functools.cache
def forward(bend: str, double: bool) -> Any:
    """The compiled forward kernel; cached on disk by Numba."""
    size = 8 if double else 4
    samples = VECTORS * (BYTES // size)
    tall = samples * size
    source = digest()
    vectors, panel, slots, columns = VECTORS, PANEL, int(Slot.COUNT), 8 * int(Column.COUNT)

    @compiled(_BLOCK)
    def kernel(block):  # type: ignore[no-untyped-def]
        a = carray(block, slots)
        if source == "":  # a part of the cache's key
            return
        me = ticket(a[Slot.TICKET])
        batch, moves, table = a[Slot.BATCH], a[Slot.MOVES], a[Slot.TABLE]
        rows_0, rows_1, chunk = a[Slot.ROWS_0], a[Slot.ROWS_1], a[Slot.CHUNK]
        tiles = (batch + samples - 1) // samples
        y = a[Slot.SCRATCH] + me * a[Slot.SHARE] * size
        z = y + chunk * rows_0 * tall
        spare = z + chunk * rows_1 * tall
        inside = spare + chunk * rows_0 * tall
        packed = inside + a[Slot.INNER] * tall
        closing = packed + a[Slot.PACKED] * size
        added = closing + a[Slot.PACKED] * size
        nothing = added + (a[Slot.INNER] + panel) * size
        biases(double, panel, 0, 0, max(rows_0, rows_1), nothing)
        until = tiles * (me + 1) // a[Slot.THREADS]
        for begin in range(tiles * me // a[Slot.THREADS], until, chunk):
            many = min(chunk, until - begin)
            load(double, size, samples, a[Slot.IN_0], batch, begin, many, rows_0, y, True)
            load(double, size, samples, a[Slot.IN_1], batch, begin, many, rows_1, z, True)
            for j in range(a[Slot.BEGIN], a[Slot.END]):
                stored = (j - a[Slot.BEGIN]) * tiles + begin
                for m in range(moves):
                    row = table + columns * m
                    scale = real(a[Slot.SCALES], m + (moves if j > 0 else 0))
                    to, of, kind = whole(row, Column.TO), whole(row, Column.OF), whole(row, Column.KIND)  # fmt: skip
                    x, reads = (y, rows_0) if of == 0 else (z, rows_1)
                    target, writes = (y, rows_0) if to == 0 else (z, rows_1)
                    dest = spare if to == of else target
                    records = whole(row, Column.MOVED) != 0
                    moved = whole(row, Column.MOVED) + stored * writes * tall
                    if kind == 0:
                        for t in range(many):
                            at = t * writes * tall
                            shift(vectors, bend, double, 0, target + at, x + at, dest + at, writes, scale)  # fmt: skip
                            if records:
                                shift(vectors, bend, double, 0, dest + at, x + at, moved + at, writes, 0.0)  # fmt: skip
                        continue
                    w, si, sk, n, k, u, v = linear(row, j, size)
                    pack_both(double, w, si, sk, n, k, packed, closing if kind == 2 else 0)
                    biases(double, panel, u, v, k, added)
                    kept = whole(row, Column.KEEPS) + stored * k * tall
                    beyond = (
                        0 if j + 1 == a[Slot.END] else w + whole(row, Column.WEIGHT_STEP) * size
                    )
                    share = n * k * size // many
                    for t in range(many):
                        if beyond != 0:
                            fetch(beyond + t * share, share)
                        source_at, at, leaves = x + t * reads * tall, t * writes * tall, kept + t * k * tall  # fmt: skip
                        if kind == 1 and records:
                            panels(bend, double, "moves keeps copies past", source_at, packed, added, n, k, target + at, dest + at, leaves, moved + at, scale)  # fmt: skip
                        elif kind == 1:
                            panels(bend, double, "moves", source_at, packed, added, n, k, target + at, dest + at, 0, 0, scale)  # fmt: skip
                        elif records:
                            panels(bend, double, "keeps", source_at, packed, added, n, k, 0, 0, leaves, 0, 1.0)  # fmt: skip
                            panels("identity", double, "moves copies", leaves, closing, nothing, k, n, target + at, dest + at, 0, moved + at, scale)  # fmt: skip
                        else:
                            panels(bend, double, "fills", source_at, packed, added, n, k, 0, inside, 0, 0, 1.0)  # fmt: skip
                            panels("identity", double, "moves", inside, closing, nothing, k, n, target + at, dest + at, 0, 0, scale)  # fmt: skip
                    if to == of:
                        y, spare = dest, y
                if a[Slot.SWAPS] != 0:
                    y, z = z, y
            unload(double, size, samples, many, rows_0, y, batch, begin, a[Slot.OUT_0])
            unload(double, size, samples, many, rows_1, z, batch, begin, a[Slot.OUT_1])

    return kernel
