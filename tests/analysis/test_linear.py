"""Linear operations keep nothing for their derivatives, and those stay what they were."""

import pytest
import torch
from peaks import peak
from torch import nn

from keelnet.analysis.derivatives import Jacobian, Tangents, differentiated
from keelnet.analysis.linear import linearised

LAYERS = {
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (7, 8)),
    "dilation": (nn.Conv2d(4, 6, (3, 5), dilation=(2, 1), padding=(0, 2), bias=False), (8, 9)),
    "groups": (nn.Conv2d(4, 8, 3, groups=2), (5, 5)),
    "same": (nn.Conv2d(4, 4, 3, padding="same"), (5, 5)),
    "circular": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (5, 5)),
    "line": (nn.Conv1d(4, 3, 4, stride=3), (11,)),
    "space": (nn.Conv3d(4, 2, 3, padding=1), (3, 4, 3)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (3, 4)),
    "transposed groups": (nn.ConvTranspose1d(4, 6, 3, stride=3, groups=2, dilation=2), (5,)),
    "spread": (nn.ConvTranspose1d(4, 2, 3, dilation=3, output_padding=2), (5,)),
    "norm": (nn.BatchNorm2d(4).eval(), (3, 3)),
    "bare norm": (nn.BatchNorm1d(4, affine=False).eval(), (3,)),
    "batch statistics": (nn.BatchNorm2d(4, track_running_stats=False).eval(), (3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_products_are_those_of_the_map_itself(name):
    layer, space = LAYERS[name]
    layer = layer.double()
    generator = torch.Generator().manual_seed(0)
    if name == "norm":
        for own in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
            own.data.uniform_(0.5, 2, generator=generator)
    y, v = torch.randn(2, 2, 4, *space, dtype=torch.float64, generator=generator)

    def function(x):
        return torch.tanh(layer(x.tanh()))

    found, exact = Jacobian(linearised(function), y), Jacobian(function, y)
    w = torch.randn(exact.value.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(found.value, exact.value)
    torch.testing.assert_close(found.pushed(v), exact.pushed(v))
    torch.testing.assert_close(found.pulled(w), exact.pulled(w))
    assert all(own.grad is None and own.requires_grad for own in layer.parameters())


def test_a_chain_of_convolutions_keeps_no_states():
    """What lives does not depend on how many there are, as it does for torch's own graph."""

    def needed(count, of):
        layers = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(count)])
        y = torch.ones(1, 4, 16, 16)
        return peak(lambda: Jacobian(of(layers), y).pushed(y)) / (4 * y.numel())

    small, large = needed(2, linearised), needed(12, linearised)
    assert large - small < 5  # the weights, 0.14 of a state each, are counted
    assert needed(12, lambda layers: layers) - needed(2, lambda layers: layers) > 9


class _Once(torch.autograd.Function):
    """sin, by one derivative forward and one backward, and no second."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(*inputs)
        context.save_for_forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, w):
        return w * context.saved_tensors[0].cos()

    @staticmethod
    def jvp(context, v):
        return v * context.saved_tensors[0].cos()


def test_what_has_no_second_derivative_goes_forward():
    y, v = torch.randn(2, 1, 5, dtype=torch.float64)
    found = differentiated(_Once.apply, y)
    assert isinstance(found, Tangents)
    torch.testing.assert_close(found.pushed(v), v * y.cos())
    torch.testing.assert_close(found.pulled(v), v * y.cos())
    assert isinstance(differentiated(torch.sin, y), Jacobian)


def test_other_errors_of_a_map_are_its_own():
    with pytest.raises(RuntimeError, match="out of order"):
        differentiated(_broken, torch.ones(1, 2))


def _broken(y):
    raise RuntimeError("out of order")
