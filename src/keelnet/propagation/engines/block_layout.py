"""What the block kernels read: one block of 64-bit integers, and one table with a row a move."""

from __future__ import annotations

from enum import IntEnum


class BlockSlot(IntEnum):
    """Places in the block; addresses unless said otherwise, 0 for none."""

    TICKET = 0
    THREADS = 1  # number
    BATCH = 2  # number of samples
    BEGIN = 3  # first layer
    END = 4  # the layer behind the last
    MOVES = 5  # number of moves a layer
    TABLE = 6  # a row of ``Column`` a move
    SCALES = 7  # float64: one a move for the first layer, one a move for the others
    SCRATCH = 8
    SHARE = 9  # numbers of scratch a thread
    ROWS_0 = 10  # channels of the first part of the state
    ROWS_1 = 11  # of the second, or 0
    INNER = 12  # most channels inside a rate
    SWAPS = 13  # whether the parts change places after each layer
    CHUNK = 14  # tiles that go through a layer together
    GROUP = 15  # of these, tiles whose outer products are summed together
    PACKED = 16  # numbers of the largest packed weight
    TURNED = 17  # numbers of the largest turned tile
    REVERSIBLE = 18  # whether the backward pass undoes moves; IN is then the last state
    POINTERS = 19  # 64-bit integers, moves × layers a thread
    IN_0 = 20  # (batch, rows) each
    IN_1 = 21
    OUT_0 = 22
    OUT_1 = 23
    PULL_0 = 24  # gradient of the last state
    PULL_1 = 25
    PULLED_0 = 26  # gradient of the first state
    PULLED_1 = 27
    COUNT = 28
