"""What Winograd's convolution does to one tile, as instructions that Numba compiles.

Channels lie in blocks of L, one vector. A spread array holds, for each block and each of the 36
products of a tile, ``ROOM`` tiles: number ((block · 36 + product) · (ROOM + 1) + tile) · L + channel;
the tile too many keeps the products of one tile off the same lines of the cache. All addresses are
64-bit integers, all distances count numbers, all numbers are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from keelnet.propagation.engines.lanes import Lanes, Value
from keelnet.propagation.engines.microkernels import _INT, _int, _literal
from keelnet.propagation.engines.winograd import (
    INPUTS,
    PRODUCTS,
    TILE,
    gathered_outputs,
    spread_inputs,
    spread_outputs,
)

ROOM = 48
ROWS = (8, 4)  # tiles that are multiplied at a time
_UNROLLED = 4
_SPREADS = {"inputs": (INPUTS, spread_inputs), "outputs": (TILE, spread_outputs)}


def step_of(lanes: int) -> int:
    """Numbers from one product to the next in a spread array."""
    return (ROOM + 1) * lanes


def block_of(lanes: int) -> int:
    """Numbers from one block to the next."""
    return PRODUCTS * step_of(lanes)


def apart(builder: Any, name: str, lanes: int, arguments: list[Value], write: Callable[..., None]) -> None:  # fmt: skip
    """Call a function of its own, so that its addresses do not fill the registers of the loop around it."""
    function = builder.module.globals.get(name)
    if function is None:
        kinds = [value.type for value in arguments]
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        write(Lanes(inner, False, lanes), *function.args)
        inner.ret_void()
    builder.call(function, arguments)


def _places(builder: Any, first: Value, step: Value, count: int) -> list[Value]:
    places = [first]
    for _ in range(1, count):
        places.append(builder.add(places[-1], step))
    return places


@intrinsic(prefer_literal=True)
def spread(typingctx, lane_count, kind, x, row, column, blocks, dest):  # type: ignore[no-untyped-def]
    """The 36 of one tile, for each block: of 6 × 6 inputs ("inputs") or of 4 × 4 gradients ("outputs").

    x is the address of the first; rows and columns lie ``row`` and ``column`` apart.
    """
    if not _literal(lane_count, kind):
        return None
    count, (size, turned) = lane_count.literal_value, _SPREADS[kind.literal_value]

    def write(lanes: Lanes, x, row, column, blocks, dest) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        with cgutils.for_range(builder, blocks) as block:
            start = builder.mul(block.index, _int(count))
            to = builder.mul(block.index, _int(block_of(count)))
            lines = [
                turned(lanes, [lanes.load(x, at) for at in _places(builder, line, column, size)])
                for line in _places(builder, start, row, size)
            ]
            for across in range(INPUTS):
                for down, value in enumerate(turned(lanes, [line[across] for line in lines])):
                    place = _int((down * INPUTS + across) * step_of(count))
                    lanes.store(value, dest, builder.add(to, place))

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_spread_{size}_{count}", count, list(arguments[2:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, kind, *[types.int64] * 5), codegen


@intrinsic(prefer_literal=True)
def gather(typingctx, lane_count, m, dest):  # type: ignore[no-untyped-def]
    """The 4 × 4 outputs of one tile and one block, one vector after another."""
    if not _literal(lane_count):
        return None
    count = lane_count.literal_value

    def write(lanes: Lanes, m, dest) -> None:  # type: ignore[no-untyped-def]
        def column(across: int) -> list[Value]:
            places = [(down * INPUTS + across) * step_of(count) for down in range(INPUTS)]
            return gathered_outputs(lanes, [lanes.load(m, _int(place)) for place in places])

        columns = [column(across) for across in range(INPUTS)]
        for down in range(TILE):
            for across, value in enumerate(
                gathered_outputs(lanes, [each[down] for each in columns])
            ):
                lanes.store(value, dest, _int((down * TILE + across) * count))

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_gather_{count}", count, list(arguments[1:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, *[types.int64] * 2), codegen


@intrinsic(prefer_literal=True)
def put(typingctx, lane_count, adds, tile, y, row, column, rows, columns, factor):  # type: ignore[no-untyped-def]
    """y = tile, or y += factor tile (``adds``), on the first ``rows`` × ``columns`` of 4 × 4."""
    if not _literal(lane_count, adds):
        return None
    count, summed = lane_count.literal_value, bool(adds.literal_value)

    def write(lanes: Lanes, tile, y, row, column, rows, columns, factor) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder = lanes.builder
        scale = lanes.splat(builder.fptrunc(factor, lanes.scalar))
        with cgutils.for_range(builder, rows) as down, cgutils.for_range(builder, columns) as across:  # fmt: skip
            own = builder.add(builder.mul(down.index, _int(TILE)), across.index)
            value = lanes.load(tile, builder.mul(own, _int(count)))
            at = builder.add(builder.mul(down.index, row), builder.mul(across.index, column))
            lanes.store(lanes.fma(scale, value, lanes.load(y, at)) if summed else value, y, at)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_put_{summed}_{count}", count, list(arguments[2:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, adds, *[types.int64] * 6, types.float64), codegen


@intrinsic(prefer_literal=True)
def multiply(typingctx, lane_count, rows, v0, v1, v2, taps, blocks, w, m):  # type: ignore[no-untyped-def]
    """m[row] = Σ over taps, blocks and channels i of v_tap[block, row, i] w[tap, block, i], rows tiles.

    Each tap and block is summed for itself before it is added: a long sum loses more.
    """
    if not _literal(lane_count, rows):
        return None
    count, many = lane_count.literal_value, rows.literal_value

    def write(lanes: Lanes, v0, v1, v2, taps, blocks, w, m) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        totals = [cgutils.alloca_once_value(builder, lanes.constant(0.0)) for _ in range(many)]
        parts = [cgutils.alloca_once(builder, lanes.type) for _ in range(many)]
        with cgutils.for_range(builder, taps) as tap, cgutils.for_range(builder, blocks) as block:
            v = _chosen(builder, tap.index, v0, v1, v2)
            start = builder.mul(block.index, _int(block_of(count)))
            own = builder.add(builder.mul(tap.index, blocks), block.index)
            own = builder.mul(own, _int(count * count))
            for part in parts:
                builder.store(lanes.constant(0.0), part)
            with cgutils.for_range_slice(builder, _int(0), _int(count), _int(_UNROLLED), _INT) as (i, _):  # fmt: skip
                for k in range(_UNROLLED):
                    channel = builder.add(i, _int(k))
                    weight = lanes.load(w, builder.add(own, builder.mul(channel, _int(count))))
                    at = builder.add(start, channel)
                    for row, part in enumerate(parts):
                        x = lanes.broadcast(v, builder.add(at, _int(row * count)))
                        builder.store(lanes.fma(x, weight, builder.load(part)), part)
            for total, part in zip(totals, parts, strict=True):
                builder.store(lanes.add(builder.load(total), builder.load(part)), total)
        for row, total in enumerate(totals):
            lanes.store(builder.load(total), m, _int(row * count))

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_multiply_{many}_{count}", count, list(arguments[2:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, rows, *[types.int64] * 7), codegen


def _chosen(builder: Any, index: Value, v0: Value, v1: Value, v2: Value) -> Value:
    second = builder.select(builder.icmp_signed("==", index, _int(1)), v1, v2)
    return builder.select(builder.icmp_signed("==", index, _int(0)), v0, second)


@intrinsic(prefer_literal=True)
def outer(typingctx, lane_count, v, g, tiles, sums):  # type: ignore[no-untyped-def]
    """sums[i, o] += Σ over tiles of v[tile, i] g[tile, o], one block of channels each."""
    if not _literal(lane_count):
        return None
    count = lane_count.literal_value

    def write(lanes: Lanes, v, g, tiles, sums) -> None:  # type: ignore[no-untyped-def]
        builder = lanes.builder
        places = [_int(i * count) for i in range(count)]
        totals = [cgutils.alloca_once_value(builder, lanes.constant(0.0)) for _ in places]
        with cgutils.for_range(builder, tiles) as tile:
            at = builder.mul(tile.index, _int(count))
            gs = lanes.load(g, at)
            for i, total in enumerate(totals):
                x = lanes.broadcast(v, builder.add(at, _int(i)))
                builder.store(lanes.fma(x, gs, builder.load(total)), total)
        for place, total in zip(places, totals, strict=True):
            lanes.store(lanes.add(lanes.load(sums, place), builder.load(total)), sums, place)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_outer_of_tiles_{count}", count, list(arguments[1:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, *[types.int64] * 4), codegen


@intrinsic(prefer_literal=True)
def fill(typingctx, lane_count, size, x, row, column, top, left, height, width, blocks, dest):  # type: ignore[no-untyped-def]  # fmt: skip
    """dest = ``size`` × ``size`` points of a plane at x from (top, left) on, zeros where there are none."""
    if not _literal(lane_count, size):
        return None
    count, square = lane_count.literal_value, size.literal_value

    def write(lanes: Lanes, x, row, column, top, left, height, width, blocks, dest) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
        builder = lanes.builder
        with cgutils.for_range(builder, _int(square)) as down, cgutils.for_range(builder, _int(square)) as across:  # fmt: skip
            line, spot = builder.add(top, down.index), builder.add(left, across.index)
            # What is negative counts as large.
            below = builder.icmp_unsigned("<", line, height)
            inside = builder.and_(below, builder.icmp_unsigned("<", spot, width))
            at = builder.add(builder.mul(line, row), builder.mul(spot, column))
            to = builder.add(builder.mul(down.index, _int(square)), across.index)
            to = builder.mul(to, column)
            with cgutils.for_range(builder, blocks) as block:
                step = builder.mul(block.index, _int(count))
                with builder.if_else(inside) as (yes, no):
                    with yes:
                        lanes.store(
                            lanes.load(x, builder.add(at, step)), dest, builder.add(to, step)
                        )
                    with no:
                        lanes.store(lanes.constant(0.0), dest, builder.add(to, step))

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        apart(builder, f"keelnet_fill_{square}_{count}", count, list(arguments[2:]), write)
        return context.get_dummy_value()

    return types.void(lane_count, size, *[types.int64] * 9), codegen
