"""Row kernels: element-wise passes over rows of channels, each number read and written once.

A kernel walks over stretches: as many rows as make a few vectors, so that few channels cost no more
than many. What belongs to a channel (a bias, a scale) is first written out over one stretch, the
"pattern"; sums over rows gather in float64 beside it. All kernels read one block of 64-bit integers,
described by `row_sweep.Slot`; threads share the stretches in order, so sums depend on their number alone.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from keelnet.propagation.engines.bends import BENDS
from keelnet.propagation.engines.lanes import BYTES, Lanes, Value
from keelnet.propagation.engines.memory import ticket
from keelnet.propagation.engines.row_bodies import BODIES
from keelnet.propagation.engines.row_patterns import finish, patterns, put_real, spill
from keelnet.propagation.engines.row_sweep import INT, MOMENTS, PATTERNS, Slot, Sweep
from keelnet.propagation.engines.tile_sources import compiled

_FILES = ("bends", "lanes", "memory", "row_bodies", "row_kernels", "row_patterns", "row_sweep")
_BLOCK = types.void(types.CPointer(types.int64))


def _sources() -> str:
    """Of everything that a kernel is made of: Numba's cache looks at this file alone."""
    folder = Path(__file__).parent
    content = b"".join((folder / f"{name}.py").read_bytes() for name in _FILES)
    return hashlib.sha256(content + bytes([BYTES])).hexdigest()


@intrinsic(prefer_literal=True)
def _stretch(typingctx, work, name, double, block, begin, length, scratch, width):  # type: ignore[no-untyped-def]  # fmt: skip
    """The body ``work`` over ``length`` numbers from ``begin`` on."""
    if not all(isinstance(kind, types.Literal) for kind in (work, name, double)):
        return None

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        # All at once: inside the loop a store might have changed them.
        pointer = builder.inttoptr(arguments[3], INT.as_pointer())
        places: dict[Slot, Value] = {
            slot: builder.gep(pointer, [ir.Constant(INT, int(slot))])
            for slot in Slot
            if slot != Slot.COUNT
        }
        slots = {slot: builder.load(place) for slot, place in places.items()}
        lanes = Lanes(builder, bool(double.literal_value))
        sweep = Sweep(lanes, slots, *arguments[4:])
        BODIES[work.literal_value](sweep, BENDS[name.literal_value])
        return context.get_dummy_value()

    return types.void(work, name, double, *[types.int64] * 5), codegen


@functools.cache
def kernel_of(work: str, bend: str, double: bool) -> Any:
    """The compiled kernel of one kind of work; cached on disk by Numba."""
    size = 8 if double else 4
    by_row = work.endswith("channel")
    numbers, source = int(Slot.COUNT), _sources()

    @compiled(_BLOCK)
    def kernel(block):  # type: ignore[no-untyped-def]
        a = carray(block, numbers)
        if source == "":  # a part of the cache's key
            return
        me = ticket(a[0] + 8)
        samples, rows, channels, stretch, width = a[4], a[5], a[6], a[7], a[9]
        share = width * (PATTERNS * size + MOMENTS * 8)
        scratch = a[8] + me * share
        sums = scratch + PATTERNS * width * size
        span = channels if by_row else stretch * channels
        if a[20] != 0 or a[22] != 0:
            for at in range(MOMENTS * width):
                put_real(sums, at, 0.0)
        each = (rows + stretch - 1) // stretch
        total = samples * each
        sample = -1
        for q in range(total * me // a[3], total * (me + 1) // a[3]):
            if q // each != sample:
                if work == "moments" and sample >= 0:
                    spill(a, span, sums, sample, me)
                sample = q // each
                patterns(size, a, work, span, sample, scratch)
            first = (q - sample * each) * stretch
            begin = (sample * rows + first) * channels
            length = min(stretch, rows - first) * channels
            _stretch(work, bend, double, a[0], begin, length, scratch, width)
        if work == "moments" and sample >= 0:
            spill(a, span, sums, sample, me)
        if a[20] != 0:
            finish(size, a, span, sums, share)

    return kernel
