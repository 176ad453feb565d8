"""Accuracy of every compiled activation, measured over all magnitudes against more digits than it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from keelnet.dynamics.activations import KNOWN
from keelnet.propagation.engines.bends import BENDS
from keelnet.propagation.engines.passes import Passes

TYPES = (torch.float32, torch.float64)
EVERY = [(name, dtype) for name in BENDS for dtype in TYPES]
EACH = pytest.mark.parametrize(
    ("name", "dtype"), EVERY, ids=[f"{name} {str(dtype)[6:]}" for name, dtype in EVERY]
)


def exact(name: str, x: np.ndarray) -> np.ndarray:
    """The activation, to within the digits of x."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        share = 1 / (1 + np.exp(-x))
        values = {
            "tanh": np.tanh(x),
            "relu": np.maximum(x, 0),
            "identity": x,
            "leaky_relu": np.where(x > 0, x, x * 0.01),
            "sigmoid": share,
            "silu": np.where(np.isneginf(x), 0, x * share),
            "elu": np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        }
    return values[name]


def points(dtype: torch.dtype) -> Tensor:
    """Every magnitude with either sign, both zeros, and a dense grid where activations bend."""
    tiny = -44 if dtype == torch.float32 else -320
    sizes = torch.logspace(tiny, 30, 40_000, dtype=torch.float64)
    ends = torch.tensor(
        [0, 1e30, torch.finfo(dtype).max, torch.finfo(dtype).tiny], dtype=torch.float64
    )
    sizes = torch.cat([sizes, torch.linspace(0, 800, 20_000, dtype=torch.float64), ends])
    grid = torch.linspace(-20, 20, 100_001, dtype=torch.float64)
    return torch.cat([sizes, -sizes, grid]).to(dtype)[:, None]


def bent(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The value, and the slope from what was kept."""
    passes = Passes(KNOWN[name], None, x.dtype)
    assert passes.native
    value, kept, slope = (torch.empty_like(x) for _ in range(3))
    passes.bend(x, dest=value, kept=kept)
    passes.pull(kept, torch.ones_like(x), slope)
    return value, slope


def wider(x: Tensor) -> np.ndarray:
    return x.numpy().astype(np.float64 if x.dtype == torch.float32 else np.longdouble)


@EACH
def test_values_are_as_near_as_the_bend_says(name, dtype):
    if dtype == torch.float64 and np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("this machine has no longer numbers")
    x = points(dtype)
    found, wanted = bent(name, x)[0], exact(name, wider(x))
    narrow = np.finfo(found.numpy().dtype)
    last = np.spacing(np.minimum(np.abs(wanted.astype(narrow.dtype)), narrow.max / 2))
    error = np.abs(wider(found) - wanted)
    # Near the smallest normal number, where exp leaves its range, only the size is bounded.
    floor = 1024 * np.float64(narrow.smallest_normal)
    error = np.where(np.abs(wanted) < floor, error - floor, error)
    units = error / last
    worst = int(units.argmax())
    bound = BENDS[name].ulp[TYPES.index(dtype)]
    bound = max(bound, 0.5) if bound else 0.0
    assert units.max() <= bound, f"{units.max():.3f} units at {float(x[worst]):.9g}"


@EACH
def test_slopes_are_those_of_autograd(name, dtype):
    x = points(dtype)
    found = bent(name, x)[1].double()
    leaf = x.double().requires_grad_()
    wanted = torch.autograd.grad(KNOWN[name](leaf).sum(), leaf)[0].detach()
    bound = 2 * BENDS[name].ulp[TYPES.index(dtype)] + 2
    error = (found - wanted).abs() / torch.finfo(dtype).eps
    worst = int(error.argmax())
    assert error.max() <= bound, f"{float(error.max()):.3f} units of 1 at {float(x[worst]):.9g}"


@EACH
def test_not_a_number_stays_and_infinity_gives_the_limit(name, dtype):
    assert bent(name, torch.full((37, 1), torch.nan, dtype=dtype))[0].isnan().all()
    ends = torch.tensor([-torch.inf, torch.inf], dtype=dtype)[:, None]
    value, slope = bent(name, ends)
    far = torch.tensor([-1e30, 1e30], dtype=dtype)[:, None]
    wanted = torch.from_numpy(exact(name, ends.numpy())).to(dtype)
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(slope, bent(name, far)[1])


@EACH
def test_signs_of_zero_and_of_small_numbers_survive(name, dtype):
    passes = Passes(KNOWN[name], None, dtype)
    if not passes.keeps_value or name in ("sigmoid", "relu"):
        return
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([-tiny, -0.0, tiny], dtype=dtype)[:, None]
    kept = torch.empty_like(x)
    passes.bend(x, kept=kept)
    assert (kept[::2].sign() == x[::2].sign()).all() and kept[1] == 0
