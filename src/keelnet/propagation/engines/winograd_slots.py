"""What the kernels of Winograd's convolution read: one block of 64-bit integers."""

from __future__ import annotations

from enum import IntEnum


class Slot(IntEnum):
    """Places in the block; addresses unless said otherwise."""

    TICKET = 0
    THREADS = 1  # number
    BATCH = 2  # sizes of the states; a plane counts as one of depth 1
    DEPTH = 3
    HEIGHT = 4
    WIDTH = 5
    INPUTS = 6  # channels
    OUTPUTS = 7
    TAPS = 8  # of the stencil in depth: 3 or 1
    CHUNK = 9  # tiles of a plane that are taken together
    SCRATCH = 10
    SHARE = 11  # numbers of scratch a thread
    X = 12  # inputs with their channels last; or a weight that is spread
    Y = 13  # outputs, or their gradients; or the weight's gradient
    WEIGHT = 14  # spread; or the sums of its gradient, thread by thread
    FACTOR = 15  # of a float64
    ADDS = 16  # whether Y += factor L x instead of Y = L x
    FRESH = 17  # whether a gradient is written instead of added
    PARTS = 18  # threads that summed
    BY_OUTPUT = 19  # strides of a weight, in numbers
    BY_INPUT = 20
    BY_TAP = 21
    BY_ROW = 22
    BY_COLUMN = 23
    COUNT = 24
