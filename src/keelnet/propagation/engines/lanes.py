"""Lanes: vectors of numbers and the activations on them, as LLVM instructions that Numba compiles.

A vector holds 64 bytes where the processor has AVX-512 and 32 elsewhere; LLVM splits what the
processor cannot hold, so the same code is right on every machine. Accuracy of each activation and
of its slope, against the exact value rounded, over all finite arguments: `tests/propagation/
engines/test_lanes.py` measures it; the bounds are each ``Bend.ulp``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import config as _config

config: Any = _config
Value = Any  # an LLVM value; llvmlite carries no types


def _features() -> frozenset[str]:
    """Of the processor that Numba compiles for: the host, unless its settings name another."""
    if config.CPU_NAME not in (None, "host") or config.CPU_FEATURES is not None:
        asked = (config.CPU_FEATURES or "").split(",")
        return frozenset(name[1:] for name in asked if name.startswith("+"))
    if not config.ENABLE_AVX:
        return frozenset()
    try:
        return frozenset(name for name, has in binding.get_host_cpu_features().items() if has)
    except RuntimeError:  # an unknown processor: the plain instructions
        return frozenset()


def _divides() -> bool:
    """Whether a division costs less than an estimate and its correction.

    On a Zen 4 a vector takes 6 cycles, beside the multiplications of others; the correction takes 4 of
    the pipes that multiply. Measured on no other: processors of Intel divide 16 numbers in 16 cycles.
    """
    asked = config.CPU_NAME
    return (binding.get_host_cpu_name() if asked in (None, "host") else asked) == "znver4"


FEATURES = _features()
WIDE = "avx512f" in FEATURES
DIVIDES = _divides()
BYTES = 64 if WIDE else 32


@dataclass(frozen=True)
class Lanes:
    """Writes vector instructions into a function that is being compiled."""

    builder: Any
    double: bool
    given: int = 0  # numbers in a vector, where it is not a whole one

    @property
    def scalar(self) -> Value:
        return ir.DoubleType() if self.double else ir.FloatType()

    @property
    def count(self) -> int:
        """Numbers in a vector."""
        return self.given or BYTES // (8 if self.double else 4)

    @property
    def type(self) -> Value:
        return ir.VectorType(self.scalar, self.count)

    @property
    def integer(self) -> Value:
        return ir.VectorType(ir.IntType(64 if self.double else 32), self.count)

    def constant(self, value: float) -> Value:
        # A float constant is written as the double that it is exactly.
        exact = value if self.double else float(np.float32(value))
        return ir.Constant(self.type, [exact] * self.count)

    def whole(self, value: int) -> Value:
        return ir.Constant(self.integer, [value] * self.count)

    def address(self, base: Value, offset: Value, scalar: bool = False) -> Value:
        """A pointer to the number ``offset`` behind the address ``base`` (both 64-bit integers)."""
        size = ir.Constant(ir.IntType(64), 8 if self.double else 4)
        at = self.builder.add(base, self.builder.mul(offset, size))
        return self.builder.inttoptr(at, (self.scalar if scalar else self.type).as_pointer())

    def load(self, base: Value, offset: Value) -> Value:
        loaded = self.builder.load(self.address(base, offset))
        loaded.align = 8 if self.double else 4
        return loaded

    def store(self, value: Value, base: Value, offset: Value, past: bool = False) -> None:
        """``past`` the caches: for what is not read again soon; its address is a multiple of the vector."""
        stored = self.builder.store(value, self.address(base, offset))
        stored.align = 8 if self.double else 4
        if past:
            stored.align = BYTES
            once = self.builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
            stored.set_metadata("nontemporal", once)

    def narrowed(self, count: int) -> Lanes:
        """The same on vectors of ``count`` numbers."""
        return Lanes(self.builder, self.double, count)

    def turned(self, rows: list[Value]) -> list[Value]:
        """The columns of a square block of rows, by exchanging ever smaller blocks of it."""
        half = self.count // 2
        while half:
            low = [at if not at & half else at - half + self.count for at in range(self.count)]
            high = [at + half if not at & half else at + self.count for at in range(self.count)]
            picks = [ir.Constant(ir.VectorType(ir.IntType(32), self.count), p) for p in (low, high)]
            for first in (at for at in range(self.count) if not at & half):
                a, b = rows[first], rows[first + half]
                rows[first], rows[first + half] = (
                    self.builder.shuffle_vector(a, b, pick) for pick in picks
                )
            half //= 2
        return rows

    def splat(self, number: Value) -> Value:
        """A scalar in every lane."""
        empty = ir.Constant(self.type, ir.Undefined)
        zero = ir.Constant(ir.IntType(32), 0)
        first = self.builder.insert_element(empty, number, zero)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.count), [0] * self.count)
        return self.builder.shuffle_vector(first, empty, zeros)

    def broadcast(self, base: Value, offset: Value) -> Value:
        """The number in memory in every lane."""
        return self.splat(self.builder.load(self.address(base, offset, scalar=True)))

    def call(self, name: str, *arguments: Value, result: Value = None) -> Value:
        """An LLVM intrinsic by its full name."""
        kind = ir.FunctionType(result or self.type, [value.type for value in arguments])
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, list(arguments))

    def _named(self, name: str) -> str:
        return f"llvm.{name}.v{self.count}f{64 if self.double else 32}"

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a b + c."""
        return self.call(self._named("fma"), a, b, c)

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.builder.fsub(a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.builder.fmul(a, b)

    def least(self, a: Value, b: Value) -> Value:
        """min(a, b), NaN where a is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), b, a)

    def most(self, a: Value, b: Value) -> Value:
        """max(a, b), NaN where a is NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), b, a)

    def size(self, a: Value) -> Value:
        return self.call(self._named("fabs"), a)

    def signed(self, size: Value, sign: Value) -> Value:
        return self.call(self._named("copysign"), size, sign)

    def above(self, a: Value, yes: Value, no: Value) -> Value:
        """yes where a > 0, else no; NaN counts as not above."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, self.constant(0.0)), yes, no)

    def quotient(self, a: Value, b: Value) -> Value:
        """a / b, of |b| in [2^-100, 2^100]: to 1 unit of the last place.

        Where a division holds up other work, a times a 14-bit estimate r of 1 / b, corrected once:
        q + r (a − b q).
        """
        if self.double or not WIDE or DIVIDES:
            return self.builder.fdiv(a, b)
        mask = ir.Constant(ir.IntType(16), 0xFFFF)
        r = self.call("llvm.x86.avx512.rcp14.ps.512", b, self.constant(0.0), mask)
        q = self.mul(a, r)
        return self.fma(r, self.fma(self.builder.fneg(b), q, a), q)

    def sum(self, a: Value) -> Value:
        """Of all lanes, by halves; a scalar."""
        count = self.count
        while count > 1:
            half = count // 2
            low = ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(half)))
            high = ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(half, count)))
            a = self.builder.fadd(
                self.builder.shuffle_vector(a, a, low), self.builder.shuffle_vector(a, a, high)
            )
            count = half
        return self.builder.extract_element(a, ir.Constant(ir.IntType(32), 0))

    def sums(self, vectors: list[Value]) -> Value:
        """The sum of each of ``count`` vectors, in the lanes of one."""
        width = self.count
        while len(vectors) > 1:
            half = width // 2
            low = [at for at in range(2 * self.count) if at % width < half]
            picks = [
                ir.Constant(ir.VectorType(ir.IntType(32), self.count), [at + by for at in low])
                for by in (0, half)
            ]
            vectors = [
                self.builder.fadd(*(self.builder.shuffle_vector(a, b, pick) for pick in picks))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            width = half
        return vectors[0]

    def polynomial(self, x: Value, coefficients: list[float]) -> Value:
        """Horner; the highest power first. A leading 1 saves a multiplication."""
        first, second, *rest = coefficients
        if first == 1.0:
            total = self.add(x, self.constant(second))
        else:
            total = self.fma(self.constant(first), x, self.constant(second))
        for number in rest:
            total = self.fma(total, x, self.constant(number))
        return total

    def expm1_parts(self, x: Value) -> tuple[Value, Value]:
        """2ⁿ and p with exp(x) = 2ⁿ (1 + p), |p| < 0.42; x is held to where 2ⁿ is a normal number."""
        low, high = (-708.0, 709.0) if self.double else (-87.0, 88.0)
        x = self.least(self.most(x, self.constant(low)), self.constant(high))
        n = self.call(self._named("rint"), self.mul(x, self.constant(1 / math.log(2))))
        head, tail = _LN2_DOUBLE if self.double else _LN2_FLOAT
        r = self.fma(n, self.constant(-head), x)
        r = self.fma(n, self.constant(-tail), r)
        degree = 13 if self.double else 7
        taylor = [1 / math.factorial(power) for power in range(degree, 0, -1)]
        p = self.mul(self.polynomial(r, taylor), r)
        bits, bias = (52, 1023) if self.double else (23, 127)
        exponent = self.builder.add(self.builder.fptosi(n, self.integer), self.whole(bias))
        power = self.builder.bitcast(self.builder.shl(exponent, self.whole(bits)), self.type)
        return power, p

    def exp(self, x: Value) -> Value:
        power, p = self.expm1_parts(x)
        return self.fma(power, p, power)

    def expm1(self, x: Value) -> Value:
        power, p = self.expm1_parts(x)
        return self.fma(power, p, self.sub(power, self.constant(1.0)))


# ln 2 in two numbers, the first short enough that n times it is exact.
_LN2_DOUBLE = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
_LN2_FLOAT = (0.693359375, -2.12194440e-4)
