"""Weights of Winograd's convolution: spread before the products, gathered from the sums of a gradient.

A spread weight is (36, outputs / L, taps, inputs, L): the products of a tile outermost. The arithmetic
is float64, rounded once.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from keelnet.propagation.engines.lanes import Lanes, Value
from keelnet.propagation.engines.memory import real, ticket
from keelnet.propagation.engines.microkernels import _int, _literal
from keelnet.propagation.engines.tile_sources import compiled, digest
from keelnet.propagation.engines.winograd import (
    INPUTS,
    PRODUCTS,
    STENCIL,
    gathered_weights,
    spread_weights,
)
from keelnet.propagation.engines.winograd_slots import Slot
from keelnet.propagation.engines.winograd_tiles import apart

_BLOCK = types.void(types.CPointer(types.int64))
_FLOAT = ir.FloatType()


def _number(lanes: Lanes, base: Value, at: Value) -> Value:
    """A pointer to one float32."""
    builder = lanes.builder
    place = builder.add(base, builder.mul(at, _int(4)))
    return builder.inttoptr(place, _FLOAT.as_pointer())


def _vector(lanes: Lanes, base: Value, at: Value) -> Value:
    """A pointer to a vector of float32."""
    kind = ir.VectorType(_FLOAT, lanes.count)
    return lanes.builder.bitcast(_number(lanes, base, at), kind.as_pointer())


@intrinsic(prefer_literal=True)
def spread_one(typingctx, lane_count, w, outs, down, across, dest, step):  # type: ignore[no-untyped-def]
    """The 36 of one input's 3 × 3 weights, for L outputs ``outs`` apart; products are ``step`` apart."""
    if not _literal(lane_count):
        return None
    count = lane_count.literal_value

    def write(lanes: Lanes, w, outs, down, across, dest, step) -> None:  # type: ignore[no-untyped-def]
        builder, lanes = lanes.builder, Lanes(lanes.builder, True, count)

        def load(row: int, column: int) -> Value:
            at = builder.add(builder.mul(down, _int(row)), builder.mul(across, _int(column)))
            value = ir.Constant(ir.VectorType(_FLOAT, count), ir.Undefined)
            for lane in range(count):
                one = builder.load(
                    _number(lanes, w, builder.add(at, builder.mul(outs, _int(lane))))
                )
                value = builder.insert_element(value, one, ir.Constant(ir.IntType(32), lane))
            return builder.fpext(value, lanes.type)

        lines = [
            spread_weights(lanes, [load(r, c) for c in range(STENCIL)]) for r in range(STENCIL)
        ]
        for column in range(INPUTS):
            for row, value in enumerate(spread_weights(lanes, [line[column] for line in lines])):
                at = builder.mul(step, _int(row * INPUTS + column))
                rounded = builder.fptrunc(value, ir.VectorType(_FLOAT, count))
                builder.store(rounded, _vector(lanes, dest, at)).align = 4

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_spread_weights_{count}", count, list(arguments[1:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, *[types.int64] * 6), codegen


@intrinsic(prefer_literal=True)
def gather_one(typingctx, lane_count, sums, step, parts, apart_, w, outs, factor, fresh):  # type: ignore[no-untyped-def]  # fmt: skip
    """w (+)= factor Gᵀ u G of the sum u over ``parts`` threads' sums, ``apart_`` apart; 3 × 3 numbers in order."""
    if not _literal(lane_count):
        return None
    count = lane_count.literal_value

    def write(lanes: Lanes, sums, step, parts, apart_, w, outs, factor, fresh) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder, lanes = lanes.builder, Lanes(lanes.builder, True, count)
        totals = [cgutils.alloca_once_value(builder, lanes.constant(0.0)) for _ in range(PRODUCTS)]
        with cgutils.for_range(builder, parts) as part:
            start = builder.mul(part.index, apart_)
            for product, total in enumerate(totals):
                at = builder.add(start, builder.mul(step, _int(product)))
                loaded = builder.load(_vector(lanes, sums, at))
                loaded.align = 4
                value = builder.fpext(loaded, lanes.type)
                builder.store(lanes.add(builder.load(total), value), total)
        u = [builder.load(total) for total in totals]
        lines = [
            gathered_weights(lanes, u[row * INPUTS : (row + 1) * INPUTS]) for row in range(INPUTS)
        ]
        columns = [gathered_weights(lanes, [line[c] for line in lines]) for c in range(STENCIL)]
        scale = lanes.splat(factor)
        for row in range(STENCIL):
            for column in range(STENCIL):
                values = lanes.mul(scale, columns[column][row])
                rounded = builder.fptrunc(values, ir.VectorType(_FLOAT, count))
                _scattered(lanes, rounded, w, outs, row * STENCIL + column, fresh)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_gather_weights_{count}", count, list(arguments[1:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, *[types.int64] * 6, types.float64, types.int64), codegen


def _scattered(
    lanes: Lanes, values: Value, w: Value, outs: Value, place: int, fresh: Value
) -> None:
    """One number of each output's stencil: written if ``fresh``, else added."""
    builder = lanes.builder
    anew = builder.icmp_unsigned("!=", fresh, _int(0))
    for lane in range(lanes.count):
        to = _number(lanes, w, builder.add(builder.mul(outs, _int(lane)), _int(place)))
        value = builder.extract_element(values, ir.Constant(ir.IntType(32), lane))
        before = builder.select(anew, ir.Constant(_FLOAT, 0.0), builder.load(to))
        builder.store(builder.fadd(before, value), to)


@functools.cache
def spreading(lanes: int) -> Any:
    """The kernel that spreads a weight (outputs, inputs, taps, 3, 3) of any strides."""
    source, slots = digest(), int(Slot.COUNT)

    @compiled(_BLOCK)
    def kernel(block):  # type: ignore[no-untyped-def]
        a = carray(block, slots)
        if source == "":  # a part of the cache's key
            return
        me = ticket(a[Slot.TICKET])
        inputs, outputs, taps = a[Slot.INPUTS], a[Slot.OUTPUTS], a[Slot.TAPS]
        rows = outputs // lanes * taps
        for at in range(rows * me // a[Slot.THREADS], rows * (me + 1) // a[Slot.THREADS]):
            block_, tap = at // taps, at % taps
            own = a[Slot.X] + 4 * (block_ * lanes * a[Slot.BY_OUTPUT] + tap * a[Slot.BY_TAP])
            for i in range(inputs):
                x = own + 4 * i * a[Slot.BY_INPUT]
                to = a[Slot.WEIGHT] + 4 * lanes * (at * inputs + i)
                spread_one(lanes, x, a[Slot.BY_OUTPUT], a[Slot.BY_ROW], a[Slot.BY_COLUMN], to, rows * inputs * lanes)  # fmt: skip

    return kernel


@functools.cache
def gathering(lanes: int) -> Any:
    """The kernel that gathers the threads' sums into the gradient of a weight, contiguous."""
    source, slots, square = digest(), int(Slot.COUNT), STENCIL * STENCIL

    @compiled(_BLOCK)
    def kernel(block):  # type: ignore[no-untyped-def]
        a = carray(block, slots)
        if source == "":  # a part of the cache's key
            return
        me = ticket(a[Slot.TICKET])
        inputs, outputs, taps = a[Slot.INPUTS], a[Slot.OUTPUTS], a[Slot.TAPS]
        rows, outs = outputs // lanes * taps, inputs * taps * square
        step, factor = rows * inputs * lanes, real(a[Slot.FACTOR], 0)
        for at in range(rows * me // a[Slot.THREADS], rows * (me + 1) // a[Slot.THREADS]):
            block_, tap = at // taps, at % taps
            for i in range(inputs):
                sums = a[Slot.WEIGHT] + 4 * lanes * (at * inputs + i)
                to = a[Slot.Y] + 4 * (block_ * lanes * outs + (i * taps + tap) * square)
                gather_one(lanes, sums, step, a[Slot.PARTS], 36 * step, to, outs, factor, a[Slot.FRESH])  # fmt: skip

    return kernel
