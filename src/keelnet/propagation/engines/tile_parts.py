"""What both tile kernels do: read a move's map, bring a part of the state into a tile and out of it."""

from __future__ import annotations

from numba.extending import register_jitable

from keelnet.propagation.engines.memory import clear, copy, whole


@register_jitable
def linear(row, layer, size):  # type: ignore[no-untyped-def]
    """Weight, strides across and down, inputs, outputs, bias and its stride: the map of a row of the table."""
    weight = whole(row, 3) + layer * whole(row, 4) * size
    bias = whole(row, 9)
    if bias != 0:
        bias += layer * whole(row, 10) * size
    across, down = whole(row, 5), whole(row, 6)
    return weight, across, down, whole(row, 7), whole(row, 8), bias, whole(row, 11)


@register_jitable
def _number(size, source, at, dest, to):  # type: ignore[no-untyped-def]
    if size == 8:
        copy(True, source, at, dest, to)
    else:
        copy(False, source, at, dest, to)


@register_jitable
def _nothing(size, dest, to):  # type: ignore[no-untyped-def]
    if size == 8:
        clear(True, dest, to)
    else:
        clear(False, dest, to)


@register_jitable
def gather(size, samples, given, step, begin, count, rows, tile, repeats):  # type: ignore[no-untyped-def]
    """Samples begin … begin + count − 1 of a part, channels first; an address of 0 gives zeros.

    Lanes past the last sample repeat it where ``repeats``: zeros might overflow where it does not.
    """
    last = (begin + count - 1) * step
    for i in range(rows):
        to = i * samples
        if given == 0:
            count = 0
        for s in range(count):
            _number(size, given, (begin + s) * step + i, tile, to + s)
        for s in range(count, samples):
            if repeats and given != 0:
                _number(size, given, last + i, tile, to + s)
            else:
                _nothing(size, tile, to + s)


@register_jitable
def scatter(size, samples, tile, begin, count, rows, out, step):  # type: ignore[no-untyped-def]
    """The tile's samples to where they belong in a part; nowhere if ``out`` is 0."""
    if out != 0:
        for i in range(rows):
            for s in range(count):
                _number(size, tile, i * samples + s, out, (begin + s) * step + i)
