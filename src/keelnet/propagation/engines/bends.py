"""The activations that engines know, on lanes: the value, and the slope from what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keelnet.dynamics.activations import Activation
from keelnet.propagation.engines.lanes import Lanes, Value


@dataclass(frozen=True)
class Bend:
    """f, and f' from the value f(x) (``keeps_value``) or else from the argument x.

    ``ulp`` bounds the error of ``value`` in float32 and float64, in units of the last place.
    """

    name: str
    value: Callable[[Lanes, Value], Value]
    slope: Callable[[Lanes, Value], Value]
    ulp: tuple[float, float]
    keeps_value: bool = True


# x P(x²) / Q(x²), fitted for the least relative error (2.1e-8) on |x| ≤ 9.02, beyond which tanh
# is 1 in float32; then each number moved by a few units of its last place for the least error with all
# rounding: 5.34 units of the last place over every float32.
_TANH_P = (0.017159203067421913, 26.51833152770996, 4501.49951171875, 172376.5625, 1288343.25)
_TANH_Q = (1.0, 422.9724426269531, 33330.76171875, 601824.0625, 1288343.25)


def _tanh(lanes: Lanes, x: Value) -> Value:
    if lanes.double:
        return _tanh_by_exp(lanes, x)
    bound = lanes.constant(9.02)
    x = lanes.least(lanes.most(x, lanes.constant(-9.02)), bound)
    square = lanes.mul(x, x)
    above = lanes.mul(x, lanes.polynomial(square, list(_TANH_P)))
    return lanes.quotient(above, lanes.polynomial(square, list(_TANH_Q)))


def _tanh_by_exp(lanes: Lanes, x: Value) -> Value:
    """−t / (2 + t) with t = exp(−2 |x|) − 1: no cancellation at either end."""
    t = lanes.expm1(lanes.mul(lanes.size(x), lanes.constant(-2.0)))
    negative = lanes.builder.fneg(t)
    size = lanes.builder.fdiv(negative, lanes.add(t, lanes.constant(2.0)))
    return lanes.signed(size, x)


def _tanh_slope(lanes: Lanes, value: Value) -> Value:
    return lanes.fma(lanes.builder.fneg(value), value, lanes.constant(1.0))


def _relu(lanes: Lanes, x: Value) -> Value:
    return lanes.most(x, lanes.constant(0.0))


def _relu_slope(lanes: Lanes, value: Value) -> Value:
    return lanes.above(value, lanes.constant(1.0), lanes.constant(0.0))


def _identity(lanes: Lanes, x: Value) -> Value:
    return x


def _one(lanes: Lanes, value: Value) -> Value:
    return lanes.constant(1.0)


def _leaky(lanes: Lanes, x: Value) -> Value:
    return lanes.above(x, x, lanes.mul(x, lanes.constant(0.01)))


def _leaky_slope(lanes: Lanes, value: Value) -> Value:
    return lanes.above(value, lanes.constant(1.0), lanes.constant(0.01))


def _sigmoid(lanes: Lanes, x: Value) -> Value:
    """1 / (1 + exp(−x))."""
    grown = lanes.exp(lanes.builder.fneg(x))
    return lanes.builder.fdiv(lanes.constant(1.0), lanes.add(grown, lanes.constant(1.0)))


def _sigmoid_slope(lanes: Lanes, value: Value) -> Value:
    return lanes.mul(value, lanes.sub(lanes.constant(1.0), value))


def _reach(lanes: Lanes) -> float:
    """Beyond −this the exponential is held, and silu would grow instead of vanishing."""
    return 709.0 if lanes.double else 88.0


def _silu(lanes: Lanes, x: Value) -> Value:
    return lanes.mul(lanes.most(x, lanes.constant(-_reach(lanes))), _sigmoid(lanes, x))


def _silu_slope(lanes: Lanes, x: Value) -> Value:
    """s (1 + x (1 − s)), s = sigmoid(x)."""
    reach = _reach(lanes)
    x = lanes.least(lanes.most(x, lanes.constant(-reach)), lanes.constant(reach))
    share = _sigmoid(lanes, x)
    rest = lanes.sub(lanes.constant(1.0), share)
    return lanes.mul(share, lanes.fma(x, rest, lanes.constant(1.0)))


def _elu(lanes: Lanes, x: Value) -> Value:
    return lanes.above(x, x, lanes.expm1(x))


def _elu_slope(lanes: Lanes, value: Value) -> Value:
    return lanes.above(value, lanes.constant(1.0), lanes.add(value, lanes.constant(1.0)))


BENDS = {
    bend.name: bend
    for bend in (
        Bend("tanh", _tanh, _tanh_slope, (5.5, 3.0)),
        Bend("relu", _relu, _relu_slope, (0.0, 0.0)),
        Bend("identity", _identity, _one, (0.0, 0.0)),
        Bend("leaky_relu", _leaky, _leaky_slope, (1.0, 1.0)),
        Bend("sigmoid", _sigmoid, _sigmoid_slope, (3.0, 3.0)),
        Bend("silu", _silu, _silu_slope, (4.0, 4.0), keeps_value=False),
        Bend("elu", _elu, _elu_slope, (2.0, 2.0)),
    )
}


def bend_of(activation: Activation) -> Bend | None:
    """The bend that is this very activation, not one that only bears its name."""
    return BENDS.get(activation.name) if activation.is_known else None
