"""What both block kernels do: bring parts of the state into tiles and out of them, pack, turn."""

from __future__ import annotations

from numba.extending import register_jitable

from keelnet.propagation.engines.memory import clear, copy
from keelnet.propagation.engines.panels import pack, turn


@register_jitable
def load(double, size, samples, given, batch, first, tiles, rows, dest, repeats):  # type: ignore[no-untyped-def]
    """Tiles first … first + tiles − 1 of a part (batch, rows); an address of 0 gives zeros.

    Places past the last sample repeat it where ``repeats``: zeros might overflow where it does not.
    """
    for t in range(tiles):
        begin = (first + t) * samples
        count = min(samples, batch - begin)
        tile = dest + t * rows * samples * size
        if given != 0:
            turn(double, given + begin * rows * size, rows, tile, samples, count, rows)
        for i in range(rows):
            for s in range(0 if given == 0 else count, samples):
                if given != 0 and repeats:
                    copy(double, tile, i * samples + count - 1, tile, i * samples + s)
                else:
                    clear(double, tile, i * samples + s)


@register_jitable
def unload(double, size, samples, tiles, rows, source, batch, first, out):  # type: ignore[no-untyped-def]
    """The tiles' samples to where they belong in a part; nowhere if ``out`` is 0."""
    if out != 0:
        for t in range(tiles):
            begin = (first + t) * samples
            count = min(samples, batch - begin)
            tile = source + t * rows * samples * size
            turn(double, tile, samples, out + begin * rows * size, rows, rows, count)


@register_jitable
def turn_tile(double, size, samples, tile, rows, dest):  # type: ignore[no-untyped-def]
    """The turned tile: panel after panel of as many channels as a tile has samples."""
    for first in range(0, rows, samples):
        count = min(samples, rows - first)
        at = first * samples * size
        turn(double, tile + at, samples, dest + at, samples, count, samples)


@register_jitable
def biases(double, panel, bias, step, outputs, dest):  # type: ignore[no-untyped-def]
    """The biases one after the other, zeros behind the last; all zeros where there are none."""
    for k in range((outputs + panel - 1) // panel * panel):
        if bias != 0 and k < outputs:
            copy(double, bias, k * step, dest, k)
        else:
            clear(double, dest, k)


@register_jitable
def pack_both(double, weight, across, down, inputs, outputs, packed, closing):  # type: ignore[no-untyped-def]
    """The panels of L and those of its adjoint; an address of 0 is left out."""
    if packed != 0:
        pack(double, weight, across, down, inputs, outputs, packed)
    if closing != 0:
        pack(double, weight, down, across, outputs, inputs, closing)
