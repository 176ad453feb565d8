"""The way back through the tiles of methods in stages: see `stages_forward`.

The tile runs forward again and keeps, stage by stage, the state that each read and what f left. With λ the
gradient of the state after a layer and μ that of the state which the next stage reads, the slope k of
a stage has the gradient weight λ + ahead μ; all μ and λ itself add up to the gradient before the layer.
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
from keelnet.propagation.engines.tile_pull import pulled_back
from keelnet.propagation.engines.tile_sources import compiled, digest

_BLOCK = types.void(types.CPointer(types.int64))


@functools.cache
def stages_backward(vectors: int, bend: str, double: bool) -> Any:
    """The compiled backward kernel: gradients of the first state and, a thread, of every control.

    No weight of a stage may be 0: the gradient of its slope is taken as a multiple of it.
    """
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
        stages, ahead, weights = a[37], a[38], a[39]
        tall = samples * size
        tiles = (batch + samples - 1) // samples
        high, wide = rows_0 * tall, rows_1 * tall
        first = a[7] + me * a[8] * size
        inside = first + 4 * (high + wide)
        bent = inside + a[11] * tall
        record = bent + a[11] * tall
        # Where a stage's record holds what it read of each part.
        at_0 = whole(table, 17) * tall
        at_1 = whole(table + 8 * columns * (moves - 1), 17) * tall
        for tile in range(tiles * me // a[1], tiles * (me + 1) // a[1]):
            begin = tile * samples
            count = min(samples, batch - begin)
            k_0, k_1 = first, first + high
            gather(size, samples, a[13], a[27], begin, count, rows_0, record + at_0, True)
            gather(size, samples, a[14], a[28], begin, count, rows_1, record + at_1, True)
            for j in range(depth):
                now = record + j * stages * a[25] * tall
                end = now + stages * a[25] * tall
                for stage in range(stages):
                    at = now + stage * a[25] * tall
                    for m in range(moves):
                        row = table + 8 * columns * m
                        x = at + (at_0 if whole(row, 2) == 0 else at_1)
                        k = k_0 if whole(row, 1) == 0 else k_1
                        kept = at + whole(row, 18) * tall
                        w, si, sk, n, inner, u, v = linear(row, j, size)
                        if whole(row, 0) == 1:
                            product(vectors, bend, double, "fills and keeps", x, w, si, sk, n, inner, u, v, 0, k, kept, real(scales, m))  # fmt: skip
                        else:
                            product(vectors, bend, double, "keeps", x, w, si, sk, n, inner, u, v, 0, 0, kept, 1.0)  # fmt: skip
                            product(vectors, "identity", double, "fills", kept, w, sk, si, inner, n, 0, 0, 0, k, 0, real(scales, m))  # fmt: skip
                    weight = real(weights, stage)
                    so_far = now if stage == 0 else end
                    shift(vectors, bend, double, 0, so_far + at_0, k_0, end + at_0, rows_0, weight)
                    shift(vectors, bend, double, 0, so_far + at_1, k_1, end + at_1, rows_1, weight)
                    if stage + 1 < stages:
                        step, after = real(ahead, stage + 1), at + a[25] * tall
                        shift(vectors, bend, double, 0, now + at_0, k_0, after + at_0, rows_0, step)
                        shift(vectors, bend, double, 0, now + at_1, k_1, after + at_1, rows_1, step)
            # λ, what it becomes before the layer, μ, and the gradient of the slopes, of each part.
            l_0, on_0, mu_0, g_0 = first, first + high, first + 2 * high, first + 3 * high
            l_1 = first + 4 * high
            on_1, mu_1, g_1 = l_1 + wide, l_1 + 2 * wide, l_1 + 3 * wide
            gather(size, samples, a[21], a[33], begin, count, rows_0, l_0, False)
            gather(size, samples, a[22], a[34], begin, count, rows_1, l_1, False)
            for back in range(depth):
                j = depth - 1 - back
                for other in range(stages):
                    stage = stages - 1 - other
                    at = record + (j * stages + stage) * a[25] * tall
                    weight = real(weights, stage)
                    pull_0, pull_1 = l_0, l_1
                    if other > 0:
                        share = real(ahead, stage + 1) / weight
                        pull_0, pull_1 = g_0, g_1
                        shift(vectors, bend, double, 0, l_0, mu_0, g_0, rows_0, share)
                        shift(vectors, bend, double, 0, l_1, mu_1, g_1, rows_1, share)
                    gather(size, samples, 0, 0, 0, 1, rows_0, mu_0, False)
                    gather(size, samples, 0, 0, 0, 1, rows_1, mu_1, False)
                    for m in range(moves):
                        row = table + 8 * columns * m
                        x = at + (at_0 if whole(row, 2) == 0 else at_1)
                        onto = mu_0 if whole(row, 2) == 0 else mu_1
                        pull = pull_0 if whole(row, 1) == 0 else pull_1
                        kept = at + whole(row, 18) * tall
                        pulled_back(vectors, bend, double, row, j, me, x, kept, pull, bent, onto, weight * real(scales, m))  # fmt: skip
                    from_0, from_1 = (l_0, l_1) if other == 0 else (on_0, on_1)
                    shift(vectors, bend, double, 0, from_0, mu_0, on_0, rows_0, 1.0)
                    shift(vectors, bend, double, 0, from_1, mu_1, on_1, rows_1, 1.0)
                l_0, on_0 = on_0, l_0
                l_1, on_1 = on_1, l_1
            scatter(size, samples, l_0, begin, count, rows_0, a[23], a[35])
            scatter(size, samples, l_1, begin, count, rows_1, a[24], a[36])

    return kernel
