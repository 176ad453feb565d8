"""Microkernels: products, pull-backs and outer products on tiles, as instructions that Numba compiles.

A tile holds S samples, channels first: row i, the S numbers of channel i, starts at i · S. S is
``vectors`` times the lanes of a vector. Addresses are 64-bit integers, 0 for "none"; strides count
numbers. The first four arguments of each microkernel are literals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from keelnet.propagation.engines.bends import BENDS
from keelnet.propagation.engines.lanes import Lanes, Value

_INT = ir.IntType(64)
_ROWS = 4  # outputs that a block accumulates at a time


def _int(value: int) -> Value:
    return ir.Constant(_INT, value)


def _routine(builder: Any, name: str, double: bool, arguments: list[Value], write: Callable[..., None]) -> None:  # fmt: skip
    """Call the internal function ``name``, written on its first use in the module."""
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        kinds = [value.type for value in arguments]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        write(Lanes(inner, double), *function.args)
        inner.ret_void()
    builder.call(function, arguments)


def _unless_none(lanes: Lanes, address: Value) -> Any:
    return lanes.builder.if_then(lanes.builder.icmp_unsigned("!=", address, _int(0)))


def _scale(lanes: Lanes, scale: Value) -> Value:
    return lanes.splat(scale if lanes.double else lanes.builder.fptrunc(scale, lanes.scalar))


def _literal(*kinds: Any) -> bool:
    return all(isinstance(kind, types.Literal) for kind in kinds)


def _blocks(lanes: Lanes, count: Value, write: Callable[[Value, int], None]) -> None:
    """write(first row, rows) for blocks of ``_ROWS`` rows, then for what is left."""
    builder = lanes.builder
    whole = builder.and_(count, _int(-_ROWS))
    with cgutils.for_range_slice(builder, _int(0), whole, _int(_ROWS), _INT) as (first, _):
        write(first, _ROWS)
    left = builder.sub(count, whole)
    for rows in range(1, _ROWS):
        with builder.if_then(builder.icmp_unsigned("==", left, _int(rows))):
            write(whole, rows)


def _accumulated(lanes: Lanes, vectors: int, rows: int, first: Value, x: Value, w: Value, si: Value, sk: Value, n: Value, bias: Value, step: Value) -> list[list[Value]]:  # fmt: skip
    """bias[k step] + Σᵢ x[i] w[i si + k sk] for k = first … first + rows − 1, in registers; a bias of 0 is not read."""
    builder, stride = lanes.builder, vectors * lanes.count
    totals = []
    for k in range(rows):
        begin = cgutils.alloca_once_value(builder, lanes.constant(0.0))
        with _unless_none(lanes, bias):
            at = builder.mul(builder.add(first, _int(k)), step)
            builder.store(lanes.broadcast(bias, at), begin)
        start = builder.load(begin)
        totals.append([cgutils.alloca_once_value(builder, start) for _ in range(vectors)])
    column = builder.mul(first, sk)
    with cgutils.for_range(builder, n) as loop:
        at = builder.mul(loop.index, _int(stride))
        xs = [lanes.load(x, builder.add(at, _int(v * lanes.count))) for v in range(vectors)]
        begin = builder.add(column, builder.mul(loop.index, si))
        for k, row in enumerate(totals):
            weight = lanes.broadcast(w, builder.add(begin, builder.mul(sk, _int(k))))
            for x_v, total in zip(xs, row, strict=True):
                builder.store(lanes.fma(x_v, weight, builder.load(total)), total)
    return [[builder.load(total) for total in row] for row in totals]


@intrinsic(prefer_literal=True)
def product(typingctx, vectors, name, double, work, x, w, si, sk, n, outputs, bias, step, target, dest, kept, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    """r = f(Σᵢ x[i] w[i si + k sk] + bias[k step]); dest[k] = target[k] + scale r; kept[k] = r or its argument.

    ``work`` names what is done: "moves" (dest, from target), "keeps", "moves and keeps", "fills"
    (dest = scale r), or "fills and keeps". What it does not name is not read; known beforehand, it costs no branch.
    """
    if not _literal(vectors, name, double, work):
        return None
    count, bend = vectors.literal_value, BENDS[name.literal_value]
    precise, done = bool(double.literal_value), work.literal_value

    def write(lanes: Lanes, x, w, si, sk, n, outputs, bias, step, target, dest, kept, scale) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder = lanes.builder
        factor = _scale(lanes, scale)

        def finish(argument: Value, at: Value) -> None:
            value = bend.value(lanes, argument)
            if "keeps" in done:
                lanes.store(value if bend.keeps_value else argument, kept, at)
            if "moves" in done:
                lanes.store(lanes.fma(factor, value, lanes.load(target, at)), dest, at)
            if "fills" in done:
                lanes.store(lanes.mul(factor, value), dest, at)

        def block(first: Value, rows: int) -> None:
            totals = _accumulated(lanes, count, rows, first, x, w, si, sk, n, bias, step)
            for k, row in enumerate(totals):
                begin = builder.mul(builder.add(first, _int(k)), _int(count * lanes.count))
                for v, total in enumerate(row):
                    finish(total, builder.add(begin, _int(v * lanes.count)))

        _blocks(lanes, outputs, block)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        label = f"keelnet_product_{bend.name}_{count}_{precise}_{done.replace(' ', '_')}"
        _routine(builder, label, precise, list(arguments[4:]), write)
        return context.get_dummy_value()

    return types.void(vectors, name, double, work, *[types.int64] * 11, types.float64), codegen


@intrinsic(prefer_literal=True)
def pull(typingctx, vectors, name, double, _, kept, costate, dest, rows, sums, step, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    """dest[k] = scale f'(kept[k]) costate[k]; sums[k step] += Σ over samples of dest[k] (``sums`` may be 0)."""
    if not _literal(vectors, name, double):
        return None
    count, bend = vectors.literal_value, BENDS[name.literal_value]
    precise = bool(double.literal_value)

    def write(lanes: Lanes, kept, costate, dest, rows, sums, step, scale) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        factor = _scale(lanes, scale)
        with cgutils.for_range(builder, rows) as loop:
            total = lanes.constant(0.0)
            for v in range(count):
                at = builder.add(
                    builder.mul(loop.index, _int(count * lanes.count)), _int(v * lanes.count)
                )
                slope = bend.slope(lanes, lanes.load(kept, at))
                pulled = lanes.mul(lanes.mul(factor, slope), lanes.load(costate, at))
                lanes.store(pulled, dest, at)
                total = lanes.add(total, pulled)
            with _unless_none(lanes, sums):
                place = lanes.address(sums, builder.mul(loop.index, step), scalar=True)
                builder.store(builder.fadd(builder.load(place), lanes.sum(total)), place)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        label = f"keelnet_pull_{bend.name}_{count}_{precise}"
        _routine(builder, label, precise, list(arguments[4:]), write)
        return context.get_dummy_value()

    return types.void(vectors, name, double, _, *[types.int64] * 6, types.float64), codegen


@intrinsic(prefer_literal=True)
def shift(typingctx, vectors, name, double, _, target, source, dest, rows, scale):  # type: ignore[no-untyped-def]
    """dest = target + scale source, ``rows`` rows."""
    if not _literal(vectors, name, double):
        return None
    count, precise = vectors.literal_value, bool(double.literal_value)

    def write(lanes: Lanes, target, source, dest, rows, scale) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        factor = _scale(lanes, scale)
        with cgutils.for_range(builder, builder.mul(rows, _int(count))) as loop:
            at = builder.mul(loop.index, _int(lanes.count))
            moved = lanes.fma(factor, lanes.load(source, at), lanes.load(target, at))
            lanes.store(moved, dest, at)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _routine(builder, f"keelnet_shift_{count}_{precise}", precise, list(arguments[4:]), write)
        return context.get_dummy_value()

    return types.void(vectors, name, double, _, *[types.int64] * 4, types.float64), codegen


@intrinsic(prefer_literal=True)
def outer(typingctx, vectors, name, double, _, left, right, sums, lefts, rights, spread, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    """sums[a · rights + b] += scale Σ over samples of left[a] right[b].

    With ``spread`` each sum is a vector, to whose lanes the lanes of the products are added.
    """
    if not _literal(vectors, name, double):
        return None
    count, precise = vectors.literal_value, bool(double.literal_value)

    def write(lanes: Lanes, left, right, sums, lefts, rights, spread, scale) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder = lanes.builder
        with builder.if_else(builder.icmp_unsigned("!=", spread, _int(0))) as (yes, no):
            with yes:
                by_lane(lanes, left, right, sums, lefts, rights, scale)
            with no:
                in_blocks(lanes, left, right, sums, lefts, rights, scale)

    def by_lane(lanes: Lanes, left, right, sums, lefts, rights, scale) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        factor, stride = _scale(lanes, scale), _int(count * lanes.count)
        with cgutils.for_range(builder, lefts) as a:
            begin = builder.mul(a.index, stride)
            steps = [_int(v * lanes.count) for v in range(count)]
            xs = [lanes.mul(factor, lanes.load(left, builder.add(begin, step))) for step in steps]
            with cgutils.for_range(builder, rights) as b:
                other = builder.mul(b.index, stride)
                at = builder.add(builder.mul(a.index, rights), b.index)
                at = builder.mul(at, _int(lanes.count))
                total = lanes.load(sums, at)
                for x, step in zip(xs, steps, strict=True):
                    total = lanes.fma(x, lanes.load(right, builder.add(other, step)), total)
                lanes.store(total, sums, at)

    def in_blocks(lanes: Lanes, left, right, sums, lefts, rights, scale) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        high, wide = lanes.count // _ROWS, _ROWS
        factor = _scale(lanes, scale)

        def rows_at(base: Value, first: Value, rows: int, limit: Value) -> list[Value]:
            """Offsets of the rows; those past the last stand at the last and are not written."""
            last = builder.sub(limit, _int(1))
            offsets = []
            for row in range(rows):
                index = builder.add(first, _int(row))
                held = builder.select(builder.icmp_signed("<", index, last), index, last)
                offsets.append(builder.mul(held, _int(count * lanes.count)))
            return offsets

        with (
            cgutils.for_range_slice(builder, _int(0), lefts, _int(high), _INT) as (a, _a),
            cgutils.for_range_slice(builder, _int(0), rights, _int(wide), _INT) as (b, _b),
        ):
            on_left = rows_at(left, a, high, lefts)
            on_right = rows_at(right, b, wide, rights)
            totals = [lanes.constant(0.0)] * (high * wide)
            for v in range(count):
                step = _int(v * lanes.count)
                xs = [lanes.load(left, builder.add(at, step)) for at in on_left]
                gs = [lanes.load(right, builder.add(at, step)) for at in on_right]
                totals = [
                    lanes.fma(xs[m // wide], gs[m % wide], total) for m, total in enumerate(totals)
                ]
            summed = lanes.mul(factor, lanes.sums(totals))
            for row in range(high):
                index = builder.add(a, _int(row))
                with builder.if_then(builder.icmp_signed("<", index, lefts)):
                    begin = builder.add(builder.mul(index, rights), b)
                    _added(lanes, summed, row * wide, wide, sums, begin, b, rights)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _routine(builder, f"keelnet_outer_{count}_{precise}", precise, list(arguments[4:]), write)
        return context.get_dummy_value()

    return types.void(vectors, name, double, _, *[types.int64] * 6, types.float64), codegen


def _added(lanes: Lanes, summed: Value, lane: int, wide: int, sums: Value, begin: Value, b: Value, rights: Value) -> None:  # fmt: skip
    """sums[begin …] += lanes lane … lane + wide − 1 of ``summed``, as far as there are columns."""
    builder = lanes.builder
    for column in range(wide):
        inside = builder.icmp_signed("<", builder.add(b, _int(column)), rights)
        with builder.if_then(inside):
            place = lanes.address(sums, builder.add(begin, _int(column)), scalar=True)
            number = builder.extract_element(summed, ir.Constant(ir.IntType(32), lane + column))
            builder.store(builder.fadd(builder.load(place), number), place)
