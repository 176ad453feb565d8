"""The way back through the blocks: see `blocks_forward`."""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, types
from numba.extending import register_jitable

from keelnet.propagation.engines.block_layout import BlockSlot as Slot
from keelnet.propagation.engines.block_parts import biases, load, pack_both, turn_tile, unload
from keelnet.propagation.engines.lanes import BYTES
from keelnet.propagation.engines.layout import Column
from keelnet.propagation.engines.memory import fetch, put, real, ticket, whole
from keelnet.propagation.engines.microkernels import pull, shift
from keelnet.propagation.engines.panels import PANEL, VECTORS, outers, panels
from keelnet.propagation.engines.tile_parts import linear
from keelnet.propagation.engines.tile_sources import compiled, digest

_BLOCK = types.void(types.CPointer(types.int64))


@register_jitable
def _sum_outers(double, size, group, left, left_step, right, right_step, tiles, lefts, rights, sums, fresh, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    """The outer products of all tiles, a group at a time: as many as the nearest cache holds."""
    for first in range(0, tiles, group):
        count = min(group, tiles - first)
        begin, other = left + first * left_step * size, right + first * right_step * size
        anew = 1 if fresh and first == 0 else 0
        outers(double, begin, left_step, other, right_step, count, lefts, rights, sums, anew, scale)


@functools.cache
def backward(bend: str, double: bool) -> Any:
    """The compiled backward kernel: gradients of the first state and, a thread, of every control."""
    size = 8 if double else 4
    samples = VECTORS * (BYTES // size)
    tall = samples * size
    source = digest()
    vectors, panel, slots, columns = VECTORS, PANEL, int(Slot.COUNT), 8 * int(Column.COUNT)

    @compiled(_BLOCK)
    def kernel(block):  # type: ignore[no-untyped-def]
        a = carray(block, slots)
        if source == "":
            return
        me = ticket(a[Slot.TICKET])
        batch, moves, table = a[Slot.BATCH], a[Slot.MOVES], a[Slot.TABLE]
        rows_0, rows_1, chunk = a[Slot.ROWS_0], a[Slot.ROWS_1], a[Slot.CHUNK]
        first_layer, group, inner = a[Slot.BEGIN], a[Slot.GROUP], a[Slot.INNER]
        tiles = (batch + samples - 1) // samples
        y = a[Slot.SCRATCH] + me * a[Slot.SHARE] * size
        z = y + chunk * rows_0 * tall
        ly = z + chunk * rows_1 * tall
        lz = ly + chunk * rows_0 * tall
        bent = lz + chunk * rows_1 * tall
        keeps = bent + chunk * inner * tall
        turned = keeps + chunk * inner * tall
        packed = turned + chunk * a[Slot.TURNED] * size
        closing = packed + a[Slot.PACKED] * size
        added = closing + a[Slot.PACKED] * size
        nothing = added + (inner + panel) * size
        biases(double, panel, 0, 0, max(rows_0, rows_1, inner), nothing)
        pointers = a[Slot.POINTERS] + me * 8 * moves * (a[Slot.END] - first_layer)
        undoes = a[Slot.REVERSIBLE] != 0
        start = tiles * me // a[Slot.THREADS]
        until = tiles * (me + 1) // a[Slot.THREADS]
        for begin in range(start, until, chunk):
            many = min(chunk, until - begin)
            load(double, size, samples, a[Slot.IN_0], batch, begin, many, rows_0, y, True)
            load(double, size, samples, a[Slot.IN_1], batch, begin, many, rows_1, z, True)
            load(double, size, samples, a[Slot.PULL_0], batch, begin, many, rows_0, ly, False)
            load(double, size, samples, a[Slot.PULL_1], batch, begin, many, rows_1, lz, False)
            if not undoes:  # where each move of each layer read
                at_y, at_z = y, z
                for j in range(first_layer, a[Slot.END]):
                    stored = (j - first_layer) * tiles + begin
                    for m in range(moves):
                        row = table + columns * m
                        to, of = whole(row, Column.TO), whole(row, Column.OF)
                        put(pointers, (j - first_layer) * moves + m, at_y if of == 0 else at_z)
                        if to == 0:
                            at_y = whole(row, Column.MOVED) + stored * rows_0 * tall
                        else:
                            at_z = whole(row, Column.MOVED) + stored * rows_1 * tall
                    if a[Slot.SWAPS] != 0:
                        at_y, at_z = at_z, at_y
            for back in range(a[Slot.END] - first_layer):
                j = a[Slot.END] - 1 - back
                stored = (j - first_layer) * tiles + begin
                if a[Slot.SWAPS] != 0:
                    y, z, ly, lz = z, y, lz, ly
                for other in range(moves):
                    m = moves - 1 - other
                    row = table + columns * m
                    scale = real(a[Slot.SCALES], m + (moves if j > 0 else 0))
                    to, of, kind = whole(row, Column.TO), whole(row, Column.OF), whole(row, Column.KIND)  # fmt: skip
                    x, onto, reads = (y, ly, rows_0) if of == 0 else (z, lz, rows_1)
                    target, pulled, writes = (y, ly, rows_0) if to == 0 else (z, lz, rows_1)
                    if not undoes:
                        x = whole(pointers, (j - first_layer) * moves + m)
                    if kind == 0:
                        for t in range(many):
                            at = t * writes * tall
                            if undoes:
                                shift(vectors, bend, double, 0, target + at, x + at, target + at, writes, -scale)  # fmt: skip
                            shift(vectors, bend, double, 0, onto + at, pulled + at, onto + at, writes, scale)  # fmt: skip
                        continue
                    w, si, sk, n, k, u, v = linear(row, j, size)
                    needs = undoes or kind == 2
                    pack_both(double, w, si, sk, n, k, packed if needs else 0, closing)
                    adjoint = whole(row, Column.ADJOINT) != 0
                    lefts, rights = (k, n) if adjoint else (n, k)
                    rights = (rights + samples - 1) // samples * samples
                    turned_step = rights * samples
                    dw, fresh = whole(row, Column.WEIGHT_SUMS), begin == start and whole(row, Column.FIRST) != 0  # fmt: skip
                    if dw != 0:
                        dw += (me * whole(row, Column.WEIGHT_SHARE) + j * lefts * rights) * size
                    du = whole(row, Column.BIAS_SUMS)
                    if du != 0:
                        du += (me * whole(row, Column.BIAS_SHARE) + j * (k if v != 0 else 1)) * size
                    kept = whole(row, Column.KEEPS) + stored * k * tall
                    kept_step = k * tall
                    if undoes:
                        kept, kept_step = keeps, k * tall if kind == 2 else 0
                        biases(double, panel, u, v, k, added)
                    if kind == 2:
                        for t in range(many):
                            at, leaves, above = x + t * reads * tall, kept + t * kept_step, pulled + t * writes * tall  # fmt: skip
                            if undoes:
                                to_at = target + t * writes * tall
                                panels(bend, double, "keeps", at, packed, added, n, k, 0, 0, leaves, 0, 1.0)  # fmt: skip
                                panels("identity", double, "moves", leaves, closing, nothing, k, n, to_at, to_at, 0, 0, -scale)  # fmt: skip
                            if dw != 0:
                                turn_tile(double, size, samples, above if adjoint else leaves, n if adjoint else k, turned + t * turned_step * size)  # fmt: skip
                        if dw != 0:
                            left = kept if adjoint else pulled
                            _sum_outers(double, size, group, left, lefts * samples, turned, turned_step, many, lefts, rights, dw, fresh, scale)  # fmt: skip
                            fresh = False
                    bent_step = k * tall if adjoint else 0
                    beyond = 0 if j == first_layer else w - whole(row, Column.WEIGHT_STEP) * size
                    part = n * k * size // many
                    for t in range(many):
                        if beyond != 0:
                            fetch(beyond + t * part, part)
                        at, leaves, above = x + t * reads * tall, kept + t * kept_step, pulled + t * writes * tall  # fmt: skip
                        inside, onto_at = bent + t * bent_step, onto + t * reads * tall
                        costate, factor = above, scale
                        if kind == 2:
                            panels("identity", double, "fills", above, packed, nothing, n, k, 0, inside, 0, 0, scale)  # fmt: skip
                            costate, factor = inside, 1.0
                        elif undoes:
                            to_at = target + t * writes * tall
                            panels(bend, double, "moves keeps", at, packed, added, n, k, to_at, to_at, leaves, 0, -scale)  # fmt: skip
                        pull(
                            vectors,
                            bend,
                            double,
                            0,
                            leaves,
                            costate,
                            inside,
                            k,
                            du,
                            min(v, 1),
                            factor,
                        )
                        if dw != 0:
                            turn_tile(double, size, samples, at if adjoint else inside, n if adjoint else k, turned + t * turned_step * size)  # fmt: skip
                        panels("identity", double, "moves", inside, closing, nothing, k, n, onto_at, onto_at, 0, 0, 1.0)  # fmt: skip
                    if dw != 0:
                        left = bent if adjoint else x
                        _sum_outers(double, size, group, left, lefts * samples, turned, turned_step, many, lefts, rights, dw, fresh, 1.0)  # fmt: skip
            unload(double, size, samples, many, rows_0, ly, batch, begin, a[Slot.PULLED_0])
            unload(double, size, samples, many, rows_1, lz, batch, begin, a[Slot.PULLED_1])

    return kernel
