"""The way back through one move: the gradient of what its rate read, of its weight and of its bias."""

from __future__ import annotations

from numba.extending import overload

from keelnet.propagation.engines.lanes import BYTES
from keelnet.propagation.engines.memory import whole
from keelnet.propagation.engines.microkernels import outer, product, pull
from keelnet.propagation.engines.tile_parts import linear


def pulled_back(vectors, bend, double, row, layer, me, x, kept, costate, bent, onto, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    """onto += scale Jᵀ costate, J = ∂rate/∂x of a row of the table, ``kept`` what f left of x; and the sums of θ.

    ``bent`` is scratch. The first three arguments are literals.
    """
    raise NotImplementedError("compiled code alone calls this")


# Not `register_jitable`, which would forget that the first arguments are known beforehand.
@overload(pulled_back, prefer_literal=True)
def _pulled_back(vectors, bend, double, row, layer, me, x, kept, costate, bent, onto, scale):  # type: ignore[no-untyped-def]  # fmt: skip
    def compiled(vectors, bend, double, row, layer, me, x, kept, costate, bent, onto, scale):  # type: ignore[no-untyped-def]  # fmt: skip
        size = 8 if double else 4
        w, si, sk, n, k, _, v = linear(row, layer, size)
        spread = whole(row, 19)
        dw = whole(row, 12)
        if dw != 0:
            dw += (me * whole(row, 13) + layer * n * k * (BYTES // size if spread != 0 else 1)) * size  # fmt: skip
        du = whole(row, 14)
        if du != 0:
            du += (me * whole(row, 15) + layer * (k if v != 0 else 1)) * size
        costs, factor = costate, scale
        if whole(row, 0) == 2:
            product(vectors, "identity", double, "fills", costate, w, si, sk, n, k, 0, 0, 0, bent, 0, scale)  # fmt: skip
            if dw != 0:
                if whole(row, 16) != 0:
                    outer(vectors, bend, double, 0, kept, costate, dw, k, n, spread, scale)
                else:
                    outer(vectors, bend, double, 0, costate, kept, dw, n, k, spread, scale)
            costs, factor = bent, 1.0
        pull(vectors, bend, double, 0, kept, costs, bent, k, du, min(v, 1), factor)
        if dw != 0:
            if whole(row, 16) != 0:
                outer(vectors, bend, double, 0, bent, x, dw, k, n, spread, 1.0)
            else:
                outer(vectors, bend, double, 0, x, bent, dw, n, k, spread, 1.0)
        product(vectors, "identity", double, "moves", bent, w, sk, si, k, n, 0, 0, onto, onto, 0, 1.0)  # fmt: skip

    return compiled
