"""Winograd's minimal filtering F(4, 3): four outputs of a 3-stencil from six products instead of twelve.

With the points 0, ±a, ±b and ∞,

    y = Aᵀ [(G w) ⊙ (Bᵀ x)],    x: 6 inputs, w: 3 weights, y: 4 outputs,

exact but for rounding; along two axes each matrix acts on both, and 36 products stand for 144. Its
adjoint in w is the weight's gradient: Gᵀ Σ over tiles of (A g) ⊙ (Bᵀ x). a = 5/8 and b = 3/2 round
least among the short fractions tried: a third of what ±1 and ±2 do. S. Winograd, Arithmetic
Complexity of Computations (1980); A. Lavin and S. Gray, arXiv:1509.09308.
"""

from __future__ import annotations

import math

from keelnet.propagation.engines.lanes import Lanes, Value

TILE, INPUTS, STENCIL = 4, 6, 3
PRODUCTS = INPUTS * INPUTS  # of a tile of 4 × 4 outputs
_A, _B = 5 / 8, 3 / 2
_POINTS = (0.0, _A, -_A, _B, -_B)
# G divides by Π (p − q) over the other finite points q.
_SHARES = [1 / math.prod(p - q for q in _POINTS if q != p) for p in _POINTS]


def spread_inputs(lanes: Lanes, x: list[Value]) -> list[Value]:
    """Bᵀ x, six from six."""
    c = lanes.constant
    ends = [
        lanes.fma(low, c((_A * _B) ** 2), lanes.fma(middle, c(-_A * _A - _B * _B), high))
        for low, middle, high in ((x[0], x[2], x[4]), (x[1], x[3], x[5]))
    ]
    pairs = []
    for point, other in ((_A, _B), (_B, _A)):
        root = c(-other * other)
        pairs += _pair(lanes, lanes.fma(x[2], root, x[4]), lanes.fma(x[1], root, x[3]), point)
    return [ends[0], *pairs, ends[1]]


def gathered_outputs(lanes: Lanes, m: list[Value]) -> list[Value]:
    """Aᵀ m, four from six."""
    c = lanes.constant
    even_a, odd_a = lanes.add(m[1], m[2]), lanes.sub(m[1], m[2])
    even_b, odd_b = lanes.add(m[3], m[4]), lanes.sub(m[3], m[4])
    return [
        lanes.add(m[0], lanes.add(even_a, even_b)),
        lanes.fma(odd_b, c(_B), lanes.mul(odd_a, c(_A))),
        lanes.fma(even_b, c(_B**2), lanes.mul(even_a, c(_A**2))),
        lanes.fma(odd_b, c(_B**3), lanes.fma(odd_a, c(_A**3), m[5])),
    ]


def spread_outputs(lanes: Lanes, g: list[Value]) -> list[Value]:
    """A g, six from four: the adjoint of ``gathered_outputs``."""
    pairs = []
    for point in (_A, _B):
        square = lanes.constant(point**2)
        pairs += _pair(lanes, lanes.fma(g[2], square, g[0]), lanes.fma(g[3], square, g[1]), point)
    return [g[0], *pairs, g[3]]


def spread_weights(lanes: Lanes, w: list[Value]) -> list[Value]:
    """G w, six from three."""
    c = lanes.constant
    pairs = []
    for point in (_A, _B):
        pairs += _pair(lanes, lanes.fma(w[2], c(point**2), w[0]), w[1], point)
    finite = [lanes.mul(each, c(s)) for each, s in zip([w[0], *pairs], _SHARES, strict=True)]
    return [*finite, w[2]]


def gathered_weights(lanes: Lanes, u: list[Value]) -> list[Value]:
    """Gᵀ u, three from six."""
    c = lanes.constant
    u = [*(lanes.mul(each, c(s)) for each, s in zip(u, _SHARES, strict=False)), u[5]]
    even_a, odd_a = lanes.add(u[1], u[2]), lanes.sub(u[1], u[2])
    even_b, odd_b = lanes.add(u[3], u[4]), lanes.sub(u[3], u[4])
    return [
        lanes.add(u[0], lanes.add(even_a, even_b)),
        lanes.fma(odd_b, c(_B), lanes.mul(odd_a, c(_A))),
        lanes.fma(even_b, c(_B**2), lanes.fma(even_a, c(_A**2), u[5])),
    ]


def _pair(lanes: Lanes, even: Value, odd: Value, point: float) -> list[Value]:
    """A polynomial at point and −point, from its even part and its odd part over the point."""
    return [lanes.fma(odd, lanes.constant(sign * point), even) for sign in (1, -1)]
