"""Bias and activation in one pass: the value and every derivative are torch's own."""

import pytest
import torch

import keelnet as kn
from keelnet.dynamics.activations import KNOWN
from keelnet.propagation.engines.bent import _passes, bent
from keelnet.propagation.engines.compiler import has_numba

SHAPES = [(40, 512), (8, 16, 12, 16), (2, 16, 8, 8, 16)]


def case(shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(shape[1], generator=generator, dtype=dtype, requires_grad=True)
    return x, bias


def plain(x, bias, activation):
    return activation(x + bias.reshape(-1, *[1] * (x.ndim - 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_value_and_gradients_are_those_of_torch(name, shape, dtype):
    x, bias = case(shape, dtype)
    found, wanted = bent(x, bias, KNOWN[name], 1), plain(x, bias, KNOWN[name])
    costate = torch.randn(shape, dtype=dtype)
    bound = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for a, b in zip(
        (found, *torch.autograd.grad(found, (x, bias), costate)),
        (wanted, *torch.autograd.grad(wanted, (x, bias), costate)),
        strict=True,
    ):
        assert (a - b).abs().max() <= bound * b.abs().max()


@pytest.mark.skipif(not has_numba(), reason="without Numba torch does it")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_pass_is_taken_and_writes_channels_last(shape):
    x, bias = case(shape)
    assert _passes(x, bias, KNOWN["tanh"]) is not None
    assert bent(x, bias, KNOWN["tanh"], 1).movedim(1, -1).is_contiguous()


@pytest.mark.parametrize("name", ["tanh", "relu", "elu"])
def test_second_derivatives(name):
    x, bias = case((2, 128, 8, 8))
    direction = torch.randn(x.shape, dtype=x.dtype)
    found = []
    for way in (lambda: bent(x, bias, KNOWN[name], 1), lambda: plain(x, bias, KNOWN[name])):
        grads = torch.autograd.grad(way().square().sum(), (x, bias), create_graph=True)
        total = (grads[0] * direction).sum() + grads[1].square().sum()
        found.append(torch.autograd.grad(total, (x, bias)))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_batches_of_gradients_and_forward_derivatives():
    x, bias = case((2, 128, 8, 8))
    costates = torch.randn(3, *x.shape, dtype=x.dtype)
    value = bent(x, bias, KNOWN["tanh"], 1)
    together = torch.autograd.grad(value, x, costates, is_grads_batched=True, retain_graph=True)[0]
    for costate, pulled in zip(costates, together, strict=True):
        assert torch.allclose(torch.autograd.grad(value, x, costate, retain_graph=True)[0], pulled)
    tangent = torch.randn(x.shape, dtype=x.dtype)
    pushed = torch.func.jvp(lambda x: bent(x, bias, KNOWN["tanh"], 1), (x,), (tangent,))[1]
    assert torch.allclose(pushed, (1 - value.square()) * tangent)


def test_hooks_may_bring_back_what_is_saved_with_another_order_in_memory():
    x, bias = case((2, 128, 8, 8))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, torch.Tensor.contiguous):
        found = torch.autograd.grad(bent(x, bias, KNOWN["tanh"], 1).square().sum(), (x, bias))
    wanted = torch.autograd.grad(plain(x, bias, KNOWN["tanh"]).square().sum(), (x, bias))
    torch.testing.assert_close(found, wanted)


def test_the_value_may_be_changed_in_place_as_any_other():
    x, bias = case((2, 128, 8, 8))
    found = bent(x, bias, KNOWN["tanh"], 1).add_(1)
    torch.testing.assert_close(found, plain(x, bias, KNOWN["tanh"]) + 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # as torch's tanh
        found.sum().backward()


def test_where_it_may_not_go():
    x, bias = case((2, 128, 8, 8))
    with kn.engine("reference"):
        assert _passes(x, bias, KNOWN["tanh"]) is None
    assert _passes(x[:, :, :1], bias, KNOWN["tanh"]) is None  # too few numbers
    assert _passes(x, bias.float(), KNOWN["tanh"]) is None
    assert _passes(x.half(), bias.half(), KNOWN["tanh"]) is None
    assert _passes(x, bias, KNOWN["gelu"]) is None  # its slope does not follow from its value


@pytest.mark.parametrize("shape", [(0, 128, 8, 8), (2, 128, 8, 8)])
def test_strided_and_empty_inputs(shape):
    x, bias = case(shape)
    turned = x.detach().flip(0).transpose(-1, -2)
    assert torch.allclose(bent(turned, bias, KNOWN["tanh"], 1), plain(turned, bias, KNOWN["tanh"]))
