"""What the tile kernels read: one block of 64-bit integers, and one table with a row a move."""

from __future__ import annotations

from enum import IntEnum


class Slot(IntEnum):
    """Places in the block that both kernels read; addresses unless said otherwise, 0 for none."""

    TICKET = 0
    THREADS = 1  # number
    BATCH = 2  # number of samples
    DEPTH = 3  # number of layers
    MOVES = 4  # number of moves a layer
    TABLE = 5  # a row of ``Column`` a move
    SCALES = 6  # float64: one a move for the first layer, one a move for the others
    SCRATCH = 7
    SHARE = 8  # numbers of scratch a thread
    ROWS_0 = 9  # channels of the first part of the state
    ROWS_1 = 10  # of the second, or 0
    INNER = 11  # most channels inside a rate
    SWAPS = 12  # whether the parts change places after each layer
    IN_0 = 13  # (batch, rows) each, the numbers of a sample beside one another
    IN_1 = 14
    OUT_0 = 15
    OUT_1 = 16
    PICKS = 17  # for each layer the place of its state in the trajectory, or −1
    PATH_0 = 18
    PATH_1 = 19
    REVERSIBLE = 20  # whether the backward pass undoes moves; IN is then the last state
    PULL_0 = 21  # gradient of the last state
    PULL_1 = 22
    PULLED_0 = 23  # gradient of the first state
    PULLED_1 = 24
    RECORD = 25  # numbers a layer that a tile keeps
    POINTERS = 26  # 64-bit integers, moves × depth a thread
    IN_STEP_0 = 27  # numbers from sample to sample, as of all that follow
    IN_STEP_1 = 28
    OUT_STEP_0 = 29
    OUT_STEP_1 = 30
    PATH_STEP_0 = 31
    PATH_STEP_1 = 32
    PULL_STEP_0 = 33
    PULL_STEP_1 = 34
    PULLED_STEP_0 = 35
    PULLED_STEP_1 = 36
    STAGES = 37  # number of stages a layer, of methods that have any
    AHEAD = 38  # float64, one a stage: how far along the slope before it lies
    WEIGHTS = 39  # float64, one a stage: how far its slope moves the state
    COUNT = 40


class Column(IntEnum):
    """What the table of the tile and block kernels says of a move."""

    KIND = 0  # 0: by the other part itself; 1: bent; 2: bent and closed by the adjoint
    TO = 1
    OF = 2
    WEIGHT = 3
    WEIGHT_STEP = 4  # numbers from layer to layer
    ACROSS = 5  # stride of the input channel
    DOWN = 6  # stride of the output channel
    INPUTS = 7
    INNER = 8
    BIAS = 9
    BIAS_STEP = 10
    BIAS_STRIDE = 11
    WEIGHT_SUMS = 12
    WEIGHT_SHARE = 13  # numbers from thread to thread
    BIAS_SUMS = 14
    BIAS_SHARE = 15
    ADJOINT = 16
    PLACE = 17  # in a layer's record: the moved part
    KEPT = 18  # and what f leaves
    SPREAD = 19  # whether the weight's gradient is summed lane by lane
    MOVED = 20  # blocks: address of the record of the moved parts, 0 where nothing is recorded
    KEEPS = 21  # blocks: address of the record of what f leaves
    FIRST = 22  # blocks: whether no later move of a layer adds to the same weight's gradient
    COUNT = 23
