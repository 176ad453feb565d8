"""Laws of Winograd's filtering: it is the convolution, its adjoint and the weight's gradient, within its rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from problems import randn
from torch import Tensor

import keelnet as kn
from keelnet.dynamics.activations import KNOWN
from keelnet.dynamics.forms import Form
from keelnet.propagation.engines.conv_products import ConvProducts

pytest.importorskip("numba")
from keelnet.propagation.engines import winograd
from keelnet.propagation.engines import winograd_products as products

CONVOLVED = {2: torch.conv2d, 3: torch.conv3d}
BOUND = 2e-6  # of the largest number
# batch, inputs, outputs, stencil, space: whole tiles and broken ones, more and fewer channels, thin volumes.
CASES = [
    (1, 16, 16, (3, 3, 3), (8, 8, 8)),
    (2, 16, 32, (3, 3, 3), (5, 7, 9)),
    (3, 8, 24, (3, 3, 3), (4, 6, 13)),
    (2, 48, 16, (3, 3, 3), (1, 2, 3)),
    (1, 64, 64, (3, 3, 3), (3, 12, 12)),
    (2, 16, 16, (1, 3, 3), (3, 9, 11)),
    (1, 16, 16, (3, 3), (33, 30)),
    (5, 8, 8, (3, 3), (6, 1)),
    (2, 4, 4, (3, 3, 3), (5, 7, 9)),
    (1, 4, 8, (3, 3), (16, 17)),
    (2, 8, 4, (3, 3, 3), (3, 8, 9)),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


class Plain:
    """Lanes of one float each."""

    constant: ClassVar = float

    fma = staticmethod(lambda a, b, c: a * b + c)
    add = staticmethod(lambda a, b: a + b)
    sub = staticmethod(lambda a, b: a - b)
    mul = staticmethod(lambda a, b: a * b)


def numbers(count: int):
    return some.lists(some.floats(-1, 1), min_size=count, max_size=count)


@given(numbers(6), numbers(3))
def test_six_products_are_four_outputs_of_a_stencil(x, w):
    spread = zip(winograd.spread_weights(Plain, w), winograd.spread_inputs(Plain, x), strict=True)
    found = winograd.gathered_outputs(Plain, [a * b for a, b in spread])
    wanted = [sum(w[k] * x[at + k] for k in range(3)) for at in range(4)]
    assert found == pytest.approx(wanted, abs=1e-13)


@given(numbers(6), numbers(4))
def test_six_products_are_three_gradients_of_a_stencil(x, g):
    spread = zip(winograd.spread_outputs(Plain, g), winograd.spread_inputs(Plain, x), strict=True)
    found = winograd.gathered_weights(Plain, [a * b for a, b in spread])
    wanted = [sum(g[at] * x[at + k] for at in range(4)) for k in range(3)]
    assert found == pytest.approx(wanted, abs=1e-13)


@dataclass
class Law:
    """A case's numbers, and what they should give, in float64."""

    case: tuple

    def __post_init__(self) -> None:
        batch, inputs, outputs, stencil, space = self.case
        self.x = last(randn(batch, inputs, *space, seed=1, dtype=torch.float32))
        self.g = last(randn(batch, outputs, *space, seed=2, dtype=torch.float32))
        self.weight = randn(outputs, inputs, *stencil, seed=3, dtype=torch.float32)
        x, weight = (each.double().requires_grad_() for each in (self.x, self.weight))
        padding = [size // 2 for size in stencil]
        value = CONVOLVED[len(stencil)](x, weight, padding=padding)
        grads = torch.autograd.grad(value, (x, weight), self.g.double())
        self.value, self.pulled, self.by_weight = value.detach(), *grads

    def turned(self) -> Tensor:
        return self.weight.transpose(0, 1).flip(tuple(range(2, self.weight.ndim)))


def last(state: Tensor) -> Tensor:
    return state.movedim(1, -1).contiguous().movedim(-1, 1)


def check(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert float((found.double() - wanted).abs().max()) <= BOUND * float(wanted.abs().max())


@EVERY
def test_products_are_those_of_the_convolution(case):
    law = Law(case)
    value = products.product(law.x, products.spread_weight(law.weight))
    check(value, law.value)
    assert value.movedim(1, -1).is_contiguous()
    onto = last(torch.ones_like(law.x))
    products.add_product(law.g, products.spread_weight(law.turned()), onto, -0.5)
    check(onto, 1 - 0.5 * law.pulled)


@EVERY
def test_the_gradient_of_the_weight_is_that_of_the_convolution(case):
    law = Law(case)
    found = torch.full_like(law.weight, torch.nan)
    products.weight_gradient(law.x, law.g, found, 2.0, fresh=True)
    check(found, 2 * law.by_weight)
    products.weight_gradient(law.x, law.g, found, -0.5, fresh=False)
    check(found, 1.5 * law.by_weight)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_product(threads, monkeypatch):
    monkeypatch.setattr(products, "_WORTH", 1)
    law = Law(CASES[1])
    spread = products.spread_weight(law.weight)
    alone = products.product(law.x, spread)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert torch.equal(products.product(law.x, spread), alone)
    found = torch.empty_like(law.weight)
    products.weight_gradient(law.x, law.g, found, 1.0, fresh=True)
    check(found, law.by_weight)


@given(some.integers(1, 400), some.integers(1, 70), some.integers(1, 9))
def test_a_chunk_has_room(tiles, planes, threads):
    assert 1 <= products._chunk(tiles, planes, threads) <= 48


REFUSED = {
    "float64": (kn.ConvKernel(16, 2), torch.float64, (1, 16, 40, 40)),
    "one dimension": (kn.ConvKernel(16, 1), torch.float32, (1, 16, 4000)),
    "a wider stencil": (kn.ConvKernel(16, 2, 5), torch.float32, (1, 16, 40, 40)),
    "a wider stencil in depth": (kn.ConvKernel(16, 3, (5, 3, 3)), torch.float32, (1, 16, 9, 16, 16)),
    "groups": (kn.ConvKernel(16, 2, groups=2), torch.float32, (1, 16, 40, 40)),
    "channels": (kn.ConvKernel(16, 2, 3, 12), torch.float32, (1, 16, 40, 40)),
    "many channels": (kn.ConvKernel(136, 2), torch.float32, (1, 136, 40, 40)),
    "few points": (kn.ConvKernel(16, 2), torch.float32, (1, 16, 20, 20)),
    "rows of one point": (kn.ConvKernel(16, 2), torch.float32, (1, 16, 4000, 1)),
    "no sample": (kn.ConvKernel(16, 2), torch.float32, (0, 16, 40, 40)),
}  # fmt: skip


@pytest.mark.parametrize("named", REFUSED)
def test_everything_else_is_left_to_other_products(named):
    kernel, dtype, shape = REFUSED[named]
    assert not products.takes(kernel, torch.empty(shape, dtype=dtype))


def filtered(dtype: torch.dtype = torch.float32) -> tuple[Form, Tensor, Tensor]:
    """A form and a state that go this way where the processor has the instructions."""
    form = Form(kn.ConvKernel(8, 2, 3, 16), KNOWN["tanh"])
    x, g = randn(1, 8, 34, 31, seed=1, dtype=dtype), randn(1, 16, 34, 31, seed=2, dtype=dtype)
    if not products.takes(form.kernel, x.float()):
        pytest.skip("this processor multiplies no eight numbers at once")
    return form, x, g


@pytest.mark.parametrize("adjoint", [False, True])
def test_conv_products_go_this_way_and_stay_what_they_are(adjoint, monkeypatch):
    form, x, g = filtered()
    form = Form(form.kernel, form.activation, adjoint=adjoint)
    x, g = (g, x) if adjoint else (x, g)
    weight = randn(16, 8, 3, 3, seed=3, dtype=torch.float32)

    def computed() -> list[Tensor]:
        owner = ConvProducts()
        prepared, onto = owner.prepared(form, weight), last(torch.ones_like(x))
        owner.add_adjoint(form, prepared, g, onto, 0.5)
        adjoint, by_weight = owner.adjoint(form, prepared, g), owner.weight_gradient(form, x, g)
        return [owner.apply(form, prepared, x), adjoint, by_weight, onto]

    ours = computed()
    monkeypatch.setattr(products, "takes", lambda *_: False)
    for found, wanted in zip(ours, computed(), strict=True):
        check(found, wanted.double())


def test_propagation_and_gradient_are_those_of_the_reference(monkeypatch):
    filtered()
    field = kn.HamiltonianField(kn.ConvKernel(8, 3), "tanh")
    y0 = randn(2, 16, 5, 13, 14, dtype=torch.float32).requires_grad_()
    controls = {
        name: (randn(3, *slot.shape, seed=at, dtype=torch.float32) / 10).requires_grad_()
        for at, (name, slot) in enumerate(field.theta_shapes().items())
    }
    call = kn.Verlet(), field, y0, controls, 0.1, kn.reversible
    assert "Winograd" in str(kn.engine_of(*call))

    def pulled() -> list[Tensor]:
        value = kn.propagate(*call)
        return [value, *torch.autograd.grad(value.square().sum(), [y0, *controls.values()])]

    found = pulled()
    with kn.engine("reference"):
        wanted = pulled()
    for ours, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            ours, plain, rtol=0, atol=1e-5 * float(plain.detach().abs().max())
        )
