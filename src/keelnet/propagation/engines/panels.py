"""Panels: products of wide tiles with packed weights, as instructions that Numba compiles.

A tile holds S = ``VECTORS`` · lanes samples, channels first, as in `microkernels`. A packed weight is
a row of panels of ``PANEL`` outputs each: input after input the weights of these outputs, so that the
innermost loop reads both the tile and the weights as they lie in memory. A turned tile is a row of
panels of S channels: sample after sample the numbers of these channels.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from keelnet.propagation.engines.bends import BENDS
from keelnet.propagation.engines.lanes import WIDE, Lanes, Value
from keelnet.propagation.engines.microkernels import _INT, _int, _literal, _routine, _scale

VECTORS = 2
PANEL = 8 if WIDE else 4  # with VECTORS, what a processor's registers hold


def _accumulators(lanes: Lanes) -> list[list[Value]]:
    return [
        [cgutils.alloca_once(lanes.builder, lanes.type) for _ in range(VECTORS)]
        for _ in range(PANEL)
    ]


def _accumulate(lanes: Lanes, totals: list[list[Value]], vectors: list[Value], factors: list[Value]) -> None:  # fmt: skip
    """totals[k][v] += vectors[v] · factors[k]."""
    for factor, row in zip(factors, totals, strict=True):
        for vector, total in zip(vectors, row, strict=True):
            lanes.builder.store(lanes.fma(vector, factor, lanes.builder.load(total)), total)


@intrinsic(prefer_literal=True)
def panels(typingctx, name, double, work, x, w, bias, n, outputs, target, dest, kept, copy, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    """r = f(Σᵢ x[i] w[i, k] + bias[k]); dest[k] = target[k] + scale r; kept[k] = r or its argument.

    w and bias are packed. ``work`` names what is written: "moves" dest, "keeps" kept, "copies" (copy[k]
    = dest[k], past the caches), "past" (kept too); "fills" alone is dest = scale r.
    """
    if not _literal(name, double, work):
        return None
    bend, precise, done = BENDS[name.literal_value], bool(double.literal_value), work.literal_value

    def write(lanes: Lanes, x, w, bias, n, outputs, target, dest, kept, copy, scale) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder, factor = lanes.builder, _scale(lanes, scale)
        stride, past = _int(VECTORS * lanes.count), "past" in done
        totals = _accumulators(lanes)

        def finish(argument: Value, at: Value) -> None:
            value = bend.value(lanes, argument)
            if "keeps" in done:
                lanes.store(value if bend.keeps_value else argument, kept, at, past)
            if "moves" in done:
                moved = lanes.fma(factor, value, lanes.load(target, at))
                lanes.store(moved, dest, at)
                if "copies" in done:
                    lanes.store(moved, copy, at, True)
            if done == "fills":
                lanes.store(lanes.mul(factor, value), dest, at)

        with cgutils.for_range_slice(builder, _int(0), outputs, _int(PANEL), _INT) as (first, _):
            for k, row in enumerate(totals):
                begin = lanes.broadcast(bias, builder.add(first, _int(k)))
                for total in row:
                    builder.store(begin, total)
            panel = builder.mul(first, n)
            with cgutils.for_range(builder, n) as loop:
                at = builder.mul(loop.index, stride)
                xs = [lanes.load(x, builder.add(at, _int(v * lanes.count))) for v in range(VECTORS)]
                place = builder.add(panel, builder.mul(loop.index, _int(PANEL)))
                ws = [lanes.broadcast(w, builder.add(place, _int(k))) for k in range(PANEL)]
                _accumulate(lanes, totals, xs, ws)
            for k, row in enumerate(totals):
                output = builder.add(first, _int(k))
                with builder.if_then(builder.icmp_signed("<", output, outputs), likely=True):
                    begin = builder.mul(output, stride)
                    for v, total in enumerate(row):
                        finish(builder.load(total), builder.add(begin, _int(v * lanes.count)))

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        label = f"keelnet_panels_{bend.name}_{precise}_{done.replace(' ', '_')}"
        _routine(builder, label, precise, list(arguments[3:]), write)
        return context.get_dummy_value()

    return types.void(name, double, work, *[types.int64] * 9, types.float64), codegen


@intrinsic(prefer_literal=True)
def outers(typingctx, double, left, left_step, right, right_step, tiles, lefts, rights, sums, fresh, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    """sums[a · rights + b] = scale Σ over tiles and samples of left[a] right[b], or += unless ``fresh``.

    ``left`` are tiles, ``right`` are turned ones; a step is the numbers from tile to tile. ``rights``
    is a multiple of S.
    """
    if not _literal(double):
        return None
    precise = bool(double.literal_value)

    def write(lanes: Lanes, left, left_step, right, right_step, tiles, lefts, rights, sums, fresh, scale) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder, factor = lanes.builder, _scale(lanes, scale)
        samples = VECTORS * lanes.count
        last = builder.sub(lefts, _int(1))
        totals = _accumulators(lanes)
        with (
            cgutils.for_range_slice(builder, _int(0), rights, _int(samples), _INT) as (b, _b),
            cgutils.for_range_slice(builder, _int(0), lefts, _int(PANEL), _INT) as (a, _a),
        ):
            rows = []
            for k, row in enumerate(totals):
                index = builder.add(a, _int(k))
                # Rows past the last stand at the last and are not written.
                held = builder.select(builder.icmp_signed("<", index, last), index, last)
                rows.append(builder.mul(held, _int(samples)))
                for total in row:
                    builder.store(lanes.constant(0.0), total)
            with cgutils.for_range(builder, tiles) as tile:
                on_left = builder.mul(tile.index, left_step)
                starts = [builder.add(on_left, row) for row in rows]
                on_right = builder.add(
                    builder.mul(tile.index, right_step), builder.mul(b, _int(samples))
                )
                with cgutils.for_range(builder, _int(samples)) as loop:
                    at = builder.add(on_right, builder.mul(loop.index, _int(samples)))
                    gs = [
                        lanes.load(right, builder.add(at, _int(v * lanes.count)))
                        for v in range(VECTORS)
                    ]
                    xs = [lanes.broadcast(left, builder.add(s, loop.index)) for s in starts]
                    _accumulate(lanes, totals, gs, xs)
            for k, row in enumerate(totals):
                index = builder.add(a, _int(k))
                with builder.if_then(builder.icmp_signed("<", index, lefts), likely=True):
                    begin = builder.add(builder.mul(index, rights), b)
                    for v, total in enumerate(row):
                        at = builder.add(begin, _int(v * lanes.count))
                        value = lanes.mul(factor, builder.load(total))
                        anew = builder.icmp_unsigned("!=", fresh, _int(0))
                        with builder.if_else(anew) as (yes, no):
                            with yes:
                                lanes.store(value, sums, at)
                            with no:
                                lanes.store(lanes.add(value, lanes.load(sums, at)), sums, at)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _routine(builder, f"keelnet_outers_{precise}", precise, list(arguments[1:]), write)
        return context.get_dummy_value()

    return types.void(double, *[types.int64] * 9, types.float64), codegen


@intrinsic(prefer_literal=True)
def turn(typingctx, double, source, source_step, dest, dest_step, rows, columns):  # type: ignore[no-untyped-def]
    """dest[c · dest_step + r] = source[r · source_step + c], r below ``rows`` and c below ``columns``."""
    if not _literal(double):
        return None
    precise = bool(double.literal_value)

    def write(lanes: Lanes, source, source_step, dest, dest_step, rows, columns) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder = lanes.builder
        block = lanes.narrowed(PANEL)
        whole_rows = builder.and_(rows, _int(-PANEL))
        whole_columns = builder.and_(columns, _int(-PANEL))

        def single(r: Value, c: Value) -> None:
            place = builder.add(builder.mul(r, source_step), c)
            value = builder.load(lanes.address(source, place, scalar=True))
            place = builder.add(builder.mul(c, dest_step), r)
            builder.store(value, lanes.address(dest, place, scalar=True))

        with cgutils.for_range_slice(builder, _int(0), whole_rows, _int(PANEL), _INT) as (r, _r):
            with cgutils.for_range_slice(builder, _int(0), whole_columns, _int(PANEL), _INT) as (c, _c):  # fmt: skip
                lines = []
                for k in range(PANEL):
                    line = builder.mul(builder.add(r, _int(k)), source_step)
                    lines.append(block.load(source, builder.add(line, c)))
                for k, line in enumerate(block.turned(lines)):
                    at = builder.mul(builder.add(c, _int(k)), dest_step)
                    block.store(line, dest, builder.add(at, r))
            with (
                cgutils.for_range_slice(builder, whole_columns, columns, _int(1), _INT) as (c, _c),
                cgutils.for_range(builder, _int(PANEL)) as loop,
            ):
                single(builder.add(r, loop.index), c)
        with (
            cgutils.for_range_slice(builder, whole_rows, rows, _int(1), _INT) as (r, _r),
            cgutils.for_range(builder, columns) as loop,
        ):
            single(r, loop.index)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _routine(builder, f"keelnet_turn_{precise}", precise, list(arguments[1:]), write)
        return context.get_dummy_value()

    return types.void(double, *[types.int64] * 6), codegen


@intrinsic(prefer_literal=True)
def pack(typingctx, double, source, across, down, n, outputs, dest):  # type: ignore[no-untyped-def]
    """dest = the panels of w[i, k] = source[i · across + k · down], with zeros for outputs that there are not.

    One of ``across`` (from input to input) and ``down`` should be 1: the weights are then read as they lie.
    """
    if not _literal(double):
        return None
    precise = bool(double.literal_value)

    def write(lanes: Lanes, source, across, down, n, outputs, dest) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        block = lanes.narrowed(PANEL)
        with cgutils.for_range_slice(builder, _int(0), outputs, _int(PANEL), _INT) as (first, _):
            panel = builder.mul(first, n)
            left = builder.sub(outputs, first)
            start = builder.mul(first, down)
            is_whole = builder.icmp_signed(">=", left, _int(PANEL))
            with builder.if_else(is_whole) as (yes, no):
                with yes:
                    along = builder.icmp_signed("==", down, _int(1))
                    with builder.if_else(along) as (copied, turned):
                        with copied, cgutils.for_range(builder, n) as loop:
                            at = builder.add(start, builder.mul(loop.index, across))
                            to = builder.add(panel, builder.mul(loop.index, _int(PANEL)))
                            block.store(block.load(source, at), dest, to)
                        with turned:
                            across_it(block, source, across, down, n, start, dest, panel)
                with no:
                    for k in range(PANEL):
                        given = builder.icmp_signed(">", left, _int(k))
                        with cgutils.for_range(builder, n) as loop:
                            to = builder.add(panel, builder.mul(loop.index, _int(PANEL)))
                            place = lanes.address(dest, builder.add(to, _int(k)), scalar=True)
                            builder.store(ir.Constant(lanes.scalar, 0.0), place)
                            with builder.if_then(given):
                                at = builder.add(start, builder.mul(loop.index, across))
                                at = builder.add(at, builder.mul(_int(k), down))
                                one = builder.load(lanes.address(source, at, scalar=True))
                                builder.store(one, place)

    def across_it(block: Lanes, source, across, down, n, start, dest, panel) -> None:  # type: ignore[no-untyped-def]
        builder = block.builder
        beside = builder.icmp_signed("==", across, _int(1))
        whole = builder.select(beside, builder.and_(n, _int(-PANEL)), _int(0))
        with cgutils.for_range_slice(builder, _int(0), whole, _int(PANEL), _INT) as (i, _):
            lines = []
            for k in range(PANEL):
                line = builder.add(start, builder.mul(_int(k), down))
                lines.append(block.load(source, builder.add(line, i)))
            for k, line in enumerate(block.turned(lines)):
                to = builder.mul(builder.add(i, _int(k)), _int(PANEL))
                block.store(line, dest, builder.add(panel, to))
        with cgutils.for_range_slice(builder, whole, n, _int(1), _INT) as (i, _):
            for k in range(PANEL):
                at = builder.add(start, builder.mul(i, across))
                at = builder.add(at, builder.mul(_int(k), down))
                one = builder.load(block.address(source, at, scalar=True))
                to = builder.add(panel, builder.mul(i, _int(PANEL)))
                place = block.address(dest, builder.add(to, _int(k)), scalar=True)
                builder.store(one, place)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _routine(builder, f"keelnet_pack_{precise}", precise, list(arguments[1:]), write)
        return context.get_dummy_value()

    return types.void(double, *[types.int64] * 6), codegen
