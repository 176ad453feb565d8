"""Memory behind an address, for code that Numba compiles: single numbers, and a ticket for each thread."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_INT, _REAL = ir.IntType(64), ir.DoubleType()


def _place(builder: Any, address: Any, at: Any, kind: Any) -> Any:
    """A pointer to the number ``at`` of those that start at the address."""
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [at])


@intrinsic
def ticket(typingctx, address):  # type: ignore[no-untyped-def]
    """The integer at the address, raised by one in the same instant: each thread gets its own."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.inttoptr(arguments[0], _INT.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(_INT, 1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def whole(typingctx, address, at):  # type: ignore[no-untyped-def]
    """The 64-bit integer ``at`` behind the address."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load(_place(builder, *arguments, _INT))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def put(typingctx, address, at, value):  # type: ignore[no-untyped-def]
    """Write a 64-bit integer."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store(arguments[2], _place(builder, arguments[0], arguments[1], _INT))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def real(typingctx, address, at):  # type: ignore[no-untyped-def]
    """The float64 ``at`` behind the address."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load(_place(builder, *arguments, _REAL))

    return types.float64(types.int64, types.int64), codegen


def _scalar(double: Any) -> Any:
    return _REAL if double.literal_value else ir.FloatType()


@intrinsic(prefer_literal=True)
def copy(typingctx, double, source, at, dest, to):  # type: ignore[no-untyped-def]
    """dest[to] = source[at], one number of a state."""
    if not isinstance(double, types.Literal):
        return None

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = _scalar(double)
        value = builder.load(_place(builder, arguments[1], arguments[2], kind))
        builder.store(value, _place(builder, arguments[3], arguments[4], kind))
        return context.get_dummy_value()

    return types.void(double, *[types.int64] * 4), codegen


@intrinsic(prefer_literal=True)
def clear(typingctx, double, dest, to):  # type: ignore[no-untyped-def]
    """dest[to] = 0, one number of a state."""
    if not isinstance(double, types.Literal):
        return None

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = _scalar(double)
        builder.store(ir.Constant(kind, 0.0), _place(builder, arguments[1], arguments[2], kind))
        return context.get_dummy_value()

    return types.void(double, types.int64, types.int64), codegen


@intrinsic
def fetch(typingctx, address, size):  # type: ignore[no-untyped-def]
    """Ask for the bytes behind the address to be brought near; no address is wrong."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        byte, kind = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, kind, kind, kind]),
            "llvm.prefetch.p0",
        )
        line = ir.Constant(_INT, 64)
        with cgutils.for_range_slice(builder, ir.Constant(_INT, 0), arguments[1], line, _INT) as (
            at,
            _,
        ):
            place = builder.inttoptr(builder.add(arguments[0], at), byte)
            builder.call(call, [place, kind(0), kind(2), kind(1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
