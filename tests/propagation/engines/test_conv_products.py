"""Laws of the products of convolutions: those of the kernel itself, whichever way torch takes."""

from __future__ import annotations

import pytest
import torch
from problems import randn
from torch import Tensor

import keelnet as kn
from keelnet.dynamics.activations import KNOWN
from keelnet.dynamics.forms import Form
from keelnet.propagation.engines import conv_products
from keelnet.propagation.engines.conv_products import ConvProducts
from keelnet.propagation.engines.effective import own_gradients

STENCILS = {1: [3, 7, 1], 2: [3, (1, 5), 1, 5], 3: [3, (1, 3, 5), 1]}
KERNELS = [
    kn.ConvKernel(inputs, dim, stencil, outputs, groups)
    for dim, stencils in STENCILS.items()
    for stencil in stencils
    for inputs, outputs, groups in ((4, 4, 1), (4, 6, 2), (6, 6, 6), (1, 5, 1), (3, 1, 1))
]
EVERY = pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.dim}d {k.weight_shape}")
# What is computed, in which type, to which error; "off" is without oneDNN.
WAYS = {
    "float64": ("state", torch.float64, 1e-12),
    "float32": ("state", torch.float32, 1e-5),
    "float32 off": ("state", torch.float32, 1e-5),
    "bfloat16": ("bfloat16", torch.float32, 2e-2),
}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def forms(kernel: kn.ConvKernel, dtype: torch.dtype):
    square = kernel.inputs == kernel.outputs
    dampings = [None, 0.3, torch.tensor(0.2, dtype=dtype, requires_grad=True)] if square else [None]
    for adjoint in (False, True):
        for damping in dampings:
            yield Form(kernel, KNOWN["tanh"], adjoint=adjoint, damping=damping)


def spaces(dim: int):
    """Batches with their space: one sample goes another way than several, and may be one point."""
    yield 1, tuple(6 + axis for axis in range(dim))
    yield 1, (7, 5, 6)[:dim]
    yield 3, tuple(5 - axis for axis in range(dim))
    yield 1, (1,) * dim
    yield 1, (2,) * dim
    yield 0, (4,) * dim


class Products:
    """L x, Lᵀ g and the gradients of ⟨g, L x⟩, by autograd of the formula in float64."""

    def __init__(self, form: Form, weight: Tensor, x: Tensor, g: Tensor) -> None:
        kernel, onto = form.kernel, g.double()
        weight, x = (each.double().clone().requires_grad_() for each in (weight, x))
        damping = None
        matrix = weight
        if form.damping is not None:
            given = form.damping.item() if isinstance(form.damping, Tensor) else form.damping
            damping = torch.tensor(given, dtype=torch.float64, requires_grad=True)
            matrix = kernel.antisymmetric(weight)
        value = (kernel.adjoint if form.adjoint else kernel.apply)(matrix, x)
        if damping is not None:
            value = value - 0.5 * damping * x
        leaves = [leaf for leaf in (x, weight, damping) if leaf is not None]
        grads = torch.autograd.grad((value * onto).sum(), leaves)
        self.applied, self.adjoint, self.by_weight = value.detach(), grads[0], grads[1]
        self.by_damping = grads[2] if damping is not None else None


def check(found: Tensor, wanted: Tensor, like: Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape and found.dtype == like.dtype and not found.requires_grad
    if found.numel():
        size = max(1.0, float(wanted.abs().max()))
        assert float((found.double() - wanted).abs().max()) <= tolerance * size


def last(state: Tensor) -> bool:
    """Whether the channels come last in memory."""
    return state.movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("way", WAYS)
@EVERY
def test_products_are_those_of_the_kernel(kernel, way):
    named, dtype, tolerance = WAYS[way]
    products = ConvProducts(named)
    with torch.backends.mkldnn.flags(enabled=way != "float32 off"):
        for form in forms(kernel, dtype):
            for batch, space in spaces(kernel.dim):
                check_products(products, form, batch, space, dtype, tolerance)


def check_products(products, form, batch, space, dtype, tolerance):
    weight = randn(*form.kernel.weight_shape, seed=1, dtype=dtype)
    x = randn(batch, form.inputs, *space, seed=2, dtype=dtype)
    g = randn(batch, form.inner, *space, seed=3, dtype=dtype)
    wanted = Products(form, weight, x, g)
    prepared = products.prepared(form, weight)
    applied, adjoint = products.apply(form, prepared, x), products.adjoint(form, prepared, g)
    check(applied, wanted.applied, x, tolerance)
    check(adjoint, wanted.adjoint, x, tolerance)
    assert last(applied) and last(adjoint)
    by_weight, by_damping = products.weight_gradient(form, x, g), None
    if form.damping is not None:
        by_weight, by_damping = own_gradients(form, by_weight)
    check(by_weight, wanted.by_weight, x, tolerance)
    assert (by_damping is None) == (wanted.by_damping is None)
    if by_damping is not None:
        check(by_damping, wanted.by_damping, x, 10 * tolerance)
    for format in (torch.contiguous_format, LAST.get(x.ndim, torch.contiguous_format)):
        onto = torch.ones_like(wanted.adjoint, dtype=dtype).contiguous(memory_format=format)
        products.add_adjoint(form, prepared, g, onto)
        check(onto, wanted.adjoint + 1, x, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ndim", [4, 5])
def test_the_private_product_is_the_public_one_wherever_it_is_used(ndim, dtype):
    if not conv_products._direct(ndim, dtype):
        pytest.skip("this torch has no such product, or another one")
    x, weight, padding = conv_products._sample(ndim, dtype)
    found = conv_products._convolved(x, weight, padding, 2)
    public = (torch.conv2d, torch.conv3d)[ndim - 4](x, weight, None, 1, padding, 1, 2)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found, public, rtol=tolerance, atol=tolerance)
    if dtype == torch.float32 and conv_products._sums(ndim, dtype):
        onto = torch.ones_like(public, memory_format=LAST[ndim])
        conv_products._add_by_onednn(onto, x, weight, padding, 2)
        torch.testing.assert_close(onto, public + 1, rtol=1e-6, atol=1e-6)


def test_double_precision_is_never_left_to_onednn():
    assert not conv_products._direct(4, torch.float64) and not conv_products._sums(5, torch.float64)


def test_nothing_private_is_called_where_onednn_is_off(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(torch, "mkldnn_convolution", refuse)
    monkeypatch.setattr(conv_products, "_add_by_onednn", refuse)
    with torch.backends.mkldnn.flags(enabled=False):
        form = Form(kn.ConvKernel(4, 2, 3), KNOWN["tanh"])
        check_products(ConvProducts(), form, 1, (6, 7), torch.float32, 1e-5)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError, "wrong"])
def test_a_private_product_that_fails_or_differs_is_not_used(monkeypatch, error):
    def other(x: Tensor, *_: object) -> Tensor:
        if error == "wrong":
            return torch.zeros_like(x)
        raise error("gone")

    monkeypatch.setattr(torch, "mkldnn_convolution", other)
    assert not conv_products._probed.__wrapped__(4, torch.float32)
    monkeypatch.setattr(conv_products, "_add_by_onednn", other)
    assert not conv_products._probed_sum.__wrapped__(4, torch.float32)


@pytest.mark.parametrize("probe", ["_probed", "_probed_sum"])
def test_the_default_device_does_not_decide_whether_a_private_product_is_used(probe):
    uncached = getattr(conv_products, probe).__wrapped__
    wanted = uncached(4, torch.float32)
    with torch.device("meta"):
        assert uncached(4, torch.float32) == wanted


def test_what_is_no_convolution_is_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        ConvProducts("float16")
    with pytest.raises(TypeError, match="DenseKernel"):
        ConvProducts().prepared(Form(kn.DenseKernel(3), KNOWN["tanh"]), torch.zeros(3, 3))
