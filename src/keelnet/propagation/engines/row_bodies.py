"""The bodies of row kernels: what each kind of work does to the vectors of one stretch."""

from __future__ import annotations

from collections.abc import Callable

from numba.core import cgutils

from keelnet.propagation.engines.bends import Bend
from keelnet.propagation.engines.lanes import Value
from keelnet.propagation.engines.row_sweep import Slot, Sweep

Argument = Callable[[Sweep, Value, "Value | None"], Value]


def _bent(sweep: Sweep, bend: Bend, argument: Argument) -> None:
    """kept ← f(a) or a; dest ← target + factor f(a)."""
    lanes, builder, factor = sweep.lanes, sweep.lanes.builder, sweep.factor()

    def body(at: Value, mask: Value | None) -> None:
        a = argument(sweep, at, mask)
        value = bend.value(lanes, a)
        base = cgutils.alloca_once_value(builder, lanes.constant(0.0))
        builder.store(lanes.constant(0.0), base)
        with sweep.given(Slot.TARGET):
            builder.store(sweep.read(Slot.TARGET, at, mask), base)
        with sweep.given(Slot.KEPT):
            sweep.write(Slot.KEPT, value if bend.keeps_value else a, at, mask)
        with sweep.given(Slot.DEST):
            sweep.write(Slot.DEST, lanes.fma(factor, value, builder.load(base)), at, mask)

    sweep.each(body)


def _biased(sweep: Sweep, at: Value, mask: Value | None) -> Value:
    return sweep.lanes.add(sweep.read(Slot.PRE, at, mask), sweep.pattern(0, at))


def _centred(sweep: Sweep, at: Value, mask: Value | None) -> Value:
    """(x − mean) · (r scale) + bias."""
    lanes = sweep.lanes
    x = lanes.sub(sweep.read(Slot.PRE, at, mask), sweep.pattern(2, at))
    return lanes.fma(x, sweep.pattern(1, at), sweep.pattern(0, at))


def _bend(sweep: Sweep, bend: Bend) -> None:
    _bent(sweep, bend, _biased)


def _bend_instance(sweep: Sweep, bend: Bend) -> None:
    _bent(sweep, bend, _centred)


def _bend_channel(sweep: Sweep, bend: Bend) -> None:
    def row(sweep: Sweep) -> None:
        lanes, r = sweep.lanes, sweep.row_scale()

        def argument(sweep: Sweep, at: Value, mask: Value | None) -> Value:
            x = lanes.mul(sweep.read(Slot.PRE, at, mask), r)
            return lanes.fma(x, sweep.pattern(1, at), sweep.pattern(0, at))

        _bent(sweep, bend, argument)

    sweep.rows(row)


def _summed(sweep: Sweep, value: Value, at: Value, mask: Value | None) -> None:
    with sweep.given(Slot.SUMS):
        sweep.gather(0, sweep.wide(value), at, mask)


def _pull(sweep: Sweep, bend: Bend) -> None:
    """dest ← factor f'(kept) costate."""
    lanes, factor = sweep.lanes, sweep.factor()

    def body(at: Value, mask: Value | None) -> None:
        slope = bend.slope(lanes, sweep.read(Slot.KEPT, at, mask))
        pulled = lanes.mul(lanes.mul(factor, slope), sweep.read(Slot.COSTATE, at, mask))
        sweep.write(Slot.DEST, pulled, at, mask)
        _summed(sweep, pulled, at, mask)

    sweep.each(body)


def _unbend(sweep: Sweep, bend: Bend) -> None:
    """target ← target − factor f(a); dest ← factor f'(a) costate."""
    lanes, factor = sweep.lanes, sweep.factor()
    back = lanes.builder.fneg(factor)

    def body(at: Value, mask: Value | None) -> None:
        a = _biased(sweep, at, mask)
        value = bend.value(lanes, a)
        costate = sweep.read(Slot.COSTATE, at, mask)
        target = sweep.read(Slot.TARGET, at, mask)
        sweep.write(Slot.TARGET, lanes.fma(back, value, target), at, mask)
        slope = bend.slope(lanes, value if bend.keeps_value else a)
        pulled = lanes.mul(lanes.mul(factor, slope), costate)
        sweep.write(Slot.DEST, pulled, at, mask)
        _summed(sweep, pulled, at, mask)

    sweep.each(body)


def _shift(sweep: Sweep, bend: Bend) -> None:
    """target ← target + factor source."""
    lanes, factor = sweep.lanes, sweep.factor()

    def body(at: Value, mask: Value | None) -> None:
        target = sweep.read(Slot.TARGET, at, mask)
        moved = lanes.fma(factor, sweep.read(Slot.PRE, at, mask), target)
        sweep.write(Slot.TARGET, moved, at, mask)

    sweep.each(body)


def _moments(sweep: Sweep, bend: Bend) -> None:
    """Σ d, Σ d² and, where there is a costate g, Σ g and Σ g d; in float64."""
    builder = sweep.lanes.builder

    def body(at: Value, mask: Value | None) -> None:
        x = sweep.wide(sweep.read(Slot.PRE, at, mask))
        d = builder.fsub(x, sweep.wide(sweep.pattern(0, at)))
        sweep.gather(0, d, at, mask)
        sweep.gather(1, builder.fmul(d, d), at, mask)
        with sweep.given(Slot.COSTATE):
            g = sweep.wide(sweep.read(Slot.COSTATE, at, mask))
            sweep.gather(2, g, at, mask)
            sweep.gather(3, builder.fmul(g, d), at, mask)

    sweep.each(body)


def _unnorm_instance(sweep: Sweep, bend: Bend) -> None:
    """dest ← r scale (g − mean g − n mean g n), n = (x − mean) r."""
    lanes = sweep.lanes

    def body(at: Value, mask: Value | None) -> None:
        x = lanes.sub(sweep.read(Slot.PRE, at, mask), sweep.pattern(0, at))
        n = lanes.mul(x, sweep.pattern(1, at))
        g = sweep.read(Slot.COSTATE, at, mask)
        _summed(sweep, lanes.mul(g, n), at, mask)
        centred = lanes.sub(g, sweep.pattern(3, at))
        rest = lanes.fma(lanes.builder.fneg(n), sweep.pattern(4, at), centred)
        sweep.write(Slot.DEST, lanes.mul(sweep.pattern(2, at), rest), at, mask)

    sweep.each(body)


def _unnorm_channel(sweep: Sweep, bend: Bend) -> None:
    """dest ← r (g scale − n mean over channels of g scale n), n = x r."""

    def row(sweep: Sweep) -> None:
        lanes, r = sweep.lanes, sweep.row_scale()

        def parts(at: Value, mask: Value | None) -> tuple[Value, Value, Value]:
            g = sweep.read(Slot.COSTATE, at, mask)
            return (
                g,
                lanes.mul(g, sweep.pattern(1, at)),
                lanes.mul(sweep.read(Slot.PRE, at, mask), r),
            )

        def term(at: Value, mask: Value | None) -> Value:
            _, scaled, n = parts(at, mask)
            return lanes.mul(scaled, n)

        along = lanes.splat(sweep.mean(term))

        def body(at: Value, mask: Value | None) -> None:
            g, scaled, n = parts(at, mask)
            _summed(sweep, lanes.mul(g, n), at, mask)
            rest = lanes.fma(lanes.builder.fneg(n), along, scaled)
            sweep.write(Slot.DEST, lanes.mul(r, rest), at, mask)

        sweep.each(body)

    sweep.rows(row)


BODIES: dict[str, Callable[[Sweep, Bend], None]] = {
    "bend": _bend,
    "bend_channel": _bend_channel,
    "bend_instance": _bend_instance,
    "pull": _pull,
    "unbend": _unbend,
    "shift": _shift,
    "moments": _moments,
    "unnorm_channel": _unnorm_channel,
    "unnorm_instance": _unnorm_instance,
}

UNBENT = ("shift", "moments", "unnorm_channel", "unnorm_instance")  # the same for every bend
