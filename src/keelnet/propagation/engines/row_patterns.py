"""Patterns and sums of row kernels: what belongs to a channel, written out over a stretch and gathered from it.

The block is an array ``a`` of integers, its places those of `row_sweep.Slot`.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from keelnet.propagation.engines.memory import real
from keelnet.propagation.engines.row_sweep import INT, MOMENTS, PATTERNS, REAL


@intrinsic
def last_ticket(typingctx, address):  # type: ignore[no-untyped-def]
    """As ``ticket``; whoever draws the last one sees all that the others wrote before they drew."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(INT, 1), "acq_rel")

    return types.int64(types.int64), codegen


@intrinsic
def _single(typingctx, address, at):  # type: ignore[no-untyped-def]
    """The float32 ``at`` behind the address, as float64."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        base = builder.inttoptr(arguments[0], ir.FloatType().as_pointer())
        return builder.fpext(builder.load(builder.gep(base, [arguments[1]])), REAL)

    return types.float64(types.int64, types.int64), codegen


@intrinsic
def put_real(typingctx, address, at, value):  # type: ignore[no-untyped-def]
    """Write a float64."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        base = builder.inttoptr(arguments[0], REAL.as_pointer())
        builder.store(arguments[2], builder.gep(base, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64), codegen


@intrinsic
def _put_single(typingctx, address, at, value):  # type: ignore[no-untyped-def]
    """Write a float32."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        base = builder.inttoptr(arguments[0], ir.FloatType().as_pointer())
        number = builder.fptrunc(arguments[2], ir.FloatType())
        builder.store(number, builder.gep(base, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64), codegen


@register_jitable
def get(size, address, at, default):  # type: ignore[no-untyped-def]
    """A number of the array's own type; the default where there is no array."""
    if address == 0:
        return default
    return real(address, at) if size == 8 else _single(address, at)


@register_jitable
def put_number(size, address, at, value):  # type: ignore[no-untyped-def]
    if size == 8:
        put_real(address, at, value)
    else:
        _put_single(address, at, value)


@register_jitable
def _spread(size, a, span, scratch, pattern, c, value):  # type: ignore[no-untyped-def]
    """Write the number of channel c wherever it stands in a stretch."""
    base = scratch + pattern * a[9] * size
    for at in range(c, span, a[6]):
        put_number(size, base, at, value)


@register_jitable
def _moment(a, sample, kind, c):  # type: ignore[no-untyped-def]
    """One moment, over all threads, divided by the rows."""
    total = 0.0
    for thread in range(a[3]):
        total += real(a[22], ((thread * a[4] + sample) * MOMENTS + kind) * a[6] + c)
    return total / a[5]


@register_jitable
def patterns(size, a, work, span, sample, scratch):  # type: ignore[no-untyped-def]
    """Write out what belongs to a channel."""
    for c in range(a[6]):
        if work == "moments":
            shift = get(size, a[12], sample * a[5] * a[6] + c, 0.0)
            put_real(a[23], sample * a[6] + c, shift)
            _spread(size, a, span, scratch, 0, c, shift)
            continue
        scale = get(size, a[15], c, 1.0)
        bias = get(size, a[13], c * a[14], 0.0)
        if work == "bend_instance" or work == "unnorm_instance":
            offset = _moment(a, sample, 0, c)
            mean = real(a[23], sample * a[6] + c) + offset
            variance = max(_moment(a, sample, 1, c) - offset * offset, 0.0)
            r = 1.0 / math.sqrt(variance + real(a[0], 11))
            if work == "bend_instance":
                _spread(size, a, span, scratch, 0, c, bias)
                _spread(size, a, span, scratch, 1, c, r * scale)
                _spread(size, a, span, scratch, 2, c, mean)
            else:
                g = _moment(a, sample, 2, c)
                gd = _moment(a, sample, 3, c)
                _spread(size, a, span, scratch, 0, c, mean)
                _spread(size, a, span, scratch, 1, c, r)
                _spread(size, a, span, scratch, 2, c, r * scale)
                _spread(size, a, span, scratch, 3, c, g)
                _spread(size, a, span, scratch, 4, c, r * (gd - offset * g))
        else:
            _spread(size, a, span, scratch, 0, c, bias)
            _spread(size, a, span, scratch, 1, c, scale)


@register_jitable
def spill(a, span, sums, sample, me):  # type: ignore[no-untyped-def]
    """This thread's sums of one sample into the moments; then they are zeros again."""
    for kind in range(MOMENTS):
        base = sums + 8 * kind * a[9]
        for c in range(a[6]):
            total = 0.0
            for at in range(c, span, a[6]):
                total += real(base, at)
                put_real(base, at, 0.0)
            place = ((me * a[4] + sample) * MOMENTS + kind) * a[6] + c
            put_real(a[22], place, real(a[22], place) + total)


@register_jitable
def finish(size, a, span, sums, share):  # type: ignore[no-untyped-def]
    """Each thread sums its channels; the last one adds all threads, in order, to what was there."""
    for c in range(a[6]):
        total = real(sums, c)
        for at in range(c + a[6], span, a[6]):
            total += real(sums, at)
        put_real(sums, c, total)
    if last_ticket(a[0] + 16) < a[3] - 1:
        return
    first = a[8] + PATTERNS * a[9] * size
    for c in range(a[6]):
        total = get(size, a[20], c * a[21], 0.0)
        for thread in range(a[3]):
            total += real(first + thread * share, c)
        put_number(size, a[20], c * a[21], total)
