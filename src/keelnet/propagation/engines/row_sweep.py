"""The sweep over one stretch of rows, and the block of 64-bit integers that row kernels read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from keelnet.propagation.engines.lanes import Lanes, Value


class Slot(IntEnum):
    """Places in the block; addresses unless said otherwise, 0 for none."""

    SELF = 0  # of the block itself
    TICKET = 1  # a counter, 0
    DONE = 2  # a counter, 0
    THREADS = 3  # number
    SAMPLES = 4  # number
    ROWS = 5  # number in a sample
    CHANNELS = 6  # number
    STRETCH = 7  # number of rows
    SCRATCH = 8
    WIDTH = 9  # numbers in a pattern: a stretch, filled up to whole vectors
    FACTOR = 10  # float64
    EPS = 11  # float64
    PRE = 12
    BIAS = 13
    BIAS_STEP = 14  # number
    SCALE = 15
    TARGET = 16
    COSTATE = 17
    DEST = 18
    KEPT = 19
    SUMS = 20
    SUMS_STEP = 21  # number
    MOMENTS = 22  # float64 (threads, samples, ``MOMENTS``, channels), zeros
    SHIFTS = 23  # float64 (samples, channels)
    COUNT = 24


PATTERNS = 5  # at most, of the array's own numbers
MOMENTS = 4  # Σ d, Σ d², Σ g, Σ g d with d = x − shift
INT, REAL = ir.IntType(64), ir.DoubleType()


def scratch_bytes(width: int, size: int) -> int:
    """What one thread needs: patterns, then sums."""
    return width * (PATTERNS * size + MOMENTS * 8)


@dataclass(frozen=True)
class Sweep:
    """Where the vectors of one stretch, or of one row of it, are."""

    lanes: Lanes
    slots: dict[Slot, Value]
    begin: Value
    length: Value
    scratch: Value
    width: Value

    def slot(self, slot: Slot) -> Value:
        return self.slots[slot]

    def factor(self) -> Value:
        number = self.lanes.builder.bitcast(self.slot(Slot.FACTOR), REAL)
        return self._splat(number)

    def _splat(self, number: Value) -> Value:
        lanes = self.lanes
        return lanes.splat(number if lanes.double else lanes.builder.fptrunc(number, lanes.scalar))

    def each(self, body: Callable[[Value, Value | None], None]) -> None:
        """body(offset, None) for whole vectors, then body(offset, mask) for what is left."""
        lanes, builder = self.lanes, self.lanes.builder
        whole = builder.and_(self.length, ir.Constant(INT, -lanes.count))
        step = ir.Constant(INT, lanes.count)
        with cgutils.for_range_slice(builder, ir.Constant(INT, 0), whole, step, INT) as (at, _):
            body(at, None)
        left = builder.sub(self.length, whole)
        with builder.if_then(builder.icmp_unsigned("!=", left, ir.Constant(INT, 0))):
            kind = ir.VectorType(ir.IntType(32), lanes.count)
            first = builder.insert_element(
                ir.Constant(kind, ir.Undefined),
                builder.trunc(left, ir.IntType(32)),
                ir.Constant(ir.IntType(32), 0),
            )
            zeros = ir.Constant(kind, [0] * lanes.count)
            limit = builder.shuffle_vector(first, first, zeros)
            order = ir.Constant(kind, list(range(lanes.count)))
            body(whole, builder.icmp_signed("<", order, limit))

    def _masked(self, verb: str) -> str:
        lanes = self.lanes
        return f"llvm.masked.{verb}.v{lanes.count}f{64 if lanes.double else 32}.p0"

    def read(self, slot: Slot, at: Value, mask: Value | None) -> Value:
        """Of the array in the slot; zeros past the end."""
        lanes, offset = self.lanes, self.lanes.builder.add(self.begin, at)
        if mask is None:
            return lanes.load(self.slot(slot), offset)
        align = ir.Constant(ir.IntType(32), 8 if lanes.double else 4)
        place = lanes.address(self.slot(slot), offset)
        return lanes.call(self._masked("load"), place, align, mask, lanes.constant(0.0))

    def write(self, slot: Slot, value: Value, at: Value, mask: Value | None) -> None:
        lanes, offset = self.lanes, self.lanes.builder.add(self.begin, at)
        if mask is None:
            lanes.store(value, self.slot(slot), offset)
            return
        align = ir.Constant(ir.IntType(32), 8 if lanes.double else 4)
        place = lanes.address(self.slot(slot), offset)
        lanes.call(self._masked("store"), value, place, align, mask, result=ir.VoidType())

    def given(self, slot: Slot) -> Any:
        builder = self.lanes.builder
        return builder.if_then(builder.icmp_unsigned("!=", self.slot(slot), ir.Constant(INT, 0)))

    def pattern(self, index: int, at: Value) -> Value:
        builder = self.lanes.builder
        row = builder.mul(self.width, ir.Constant(INT, index))
        return self.lanes.load(self.scratch, builder.add(row, at))

    def wide(self, value: Value) -> Value:
        """In float64."""
        if self.lanes.double:
            return value
        return self.lanes.builder.fpext(value, ir.VectorType(REAL, self.lanes.count))

    def gather(self, index: int, value: Value, at: Value, mask: Value | None) -> None:
        """Sum ``index`` += value, in float64."""
        lanes, builder = self.lanes, self.lanes.builder
        kind = ir.VectorType(REAL, lanes.count)
        size = PATTERNS * (8 if lanes.double else 4) + 8 * index
        base = builder.add(self.scratch, builder.mul(self.width, ir.Constant(INT, size)))
        base = builder.add(base, builder.mul(at, ir.Constant(INT, 8)))
        place = builder.inttoptr(base, kind.as_pointer())
        if mask is not None:
            value = builder.select(mask, value, ir.Constant(kind, [0.0] * lanes.count))
        old = builder.load(place)
        old.align = 8
        builder.store(builder.fadd(old, value), place).align = 8

    def rows(self, body: Callable[[Sweep], None]) -> None:
        """body(sweep of the row) for every row."""
        builder, channels = self.lanes.builder, self.slot(Slot.CHANNELS)
        step = (ir.Constant(INT, 0), self.length, channels)
        with cgutils.for_range_slice(builder, *step, INT) as (at, _):
            body(replace(self, begin=builder.add(self.begin, at), length=channels))

    def mean(self, term: Callable[[Value, Value | None], Value]) -> Value:
        """The mean of the terms of one row, a scalar."""
        lanes, builder = self.lanes, self.lanes.builder
        zero = lanes.constant(0.0)
        total = cgutils.alloca_once_value(builder, zero)
        builder.store(zero, total)

        def body(at: Value, mask: Value | None) -> None:
            part = term(at, mask)
            # Patterns hold anything past the last channel, not-a-number too, and 0 times that is not 0.
            part = part if mask is None else builder.select(mask, part, zero)
            builder.store(lanes.add(builder.load(total), part), total)

        self.each(body)
        count = builder.sitofp(self.length, lanes.scalar)
        return builder.fdiv(lanes.sum(builder.load(total)), count)

    def row_scale(self) -> Value:
        """1 / sqrt(mean of x² + eps) of one row, in every lane."""
        lanes, builder = self.lanes, self.lanes.builder

        def square(at: Value, mask: Value | None) -> Value:
            x = self.read(Slot.PRE, at, mask)
            return lanes.mul(x, x)

        eps = builder.bitcast(self.slot(Slot.EPS), REAL)
        eps = eps if lanes.double else builder.fptrunc(eps, lanes.scalar)
        total = builder.fadd(self.mean(square), eps)
        name = f"llvm.sqrt.f{64 if lanes.double else 32}"
        root = lanes.call(name, total, result=lanes.scalar)
        return lanes.splat(builder.fdiv(ir.Constant(lanes.scalar, 1.0), root))
