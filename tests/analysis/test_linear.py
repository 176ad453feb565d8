"""Linear operations keep nothing for their derivatives, and those stay what they were."""

import pytest
import torch
from peaks import peak
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import keelnet as kn
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


class Dynamic(nn.Module):
    """y + y * w(y): a kernel that each sample mixes for itself (dynamic convolution)."""

    def __init__(self, transposed):
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(3, 4, 4, 3))
        self.mix, self.shift = nn.Linear(4, 3), nn.Linear(4, 4)
        self.function = F.conv_transpose1d if transposed else F.conv1d

    def forward(self, y):
        samples, channels, size = y.shape
        share = torch.softmax(4 * self.mix(y.mean(-1)), -1)
        kernel = torch.einsum("bk,koil->boil", share, self.kernels).flatten(0, 1)
        joined = y.reshape(1, samples * channels, size)
        bias = self.shift(y[..., 0]).flatten()
        moved = self.function(joined, kernel, bias, padding=1, groups=samples)
        return y + moved.view_as(y)


class Spectral(nn.Module):
    """A convolution of complex numbers."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(4, 4, 3, padding=1, dtype=torch.complex128)

    def forward(self, y):
        z = self.inner(torch.complex(y, 0.5 * y))
        return y + z.real + 0.3 * z.imag


class Ensemble(nn.Module):
    """The mean of several convolutions at once."""

    def __init__(self):
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(3, 4, 4, 3))

    def forward(self, y):
        return y + torch.func.vmap(lambda kernel: F.conv1d(y, kernel, padding=1))(self.kernels).mean(0)  # fmt: skip


class Potential(nn.Module):
    """y + ∇ of a potential, by torch.func."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv1d(4, 1, 1))

    def forward(self, y):
        return y + torch.func.grad(lambda x: self.inner(x).sum())(y)


class Checkpointed(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.branch = nn.Sequential(*parts)

    def forward(self, y):
        return y + checkpoint(self.branch, y, use_reentrant=False)


KERNELS = {
    "dynamic": lambda: Dynamic(False),
    "dynamic, transposed": lambda: Dynamic(True),
    "complex": Spectral,
    "vmap": Ensemble,
    "grad": Potential,
    "checkpointed": lambda: Checkpointed(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Tanh(), nn.Conv1d(4, 4, 1)),
    # Of 16 samples the input of the first layer has the shape of its weight.
    "checkpointed, square": lambda: Checkpointed(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), nn.Unflatten(1, (4, 4))),
}  # fmt: skip


# Of 20 voxels the least is iterated, and of these far below the others: what is said is a bound.
BOUNDED = ("dynamic", "dynamic, transposed", "complex", "vmap")


@pytest.mark.parametrize("size", [4, 20])
@pytest.mark.parametrize("name", KERNELS)
def test_whatever_convolves_has_the_growth_of_its_jacobian(name, size):
    if name.endswith("square") and size != 4:
        return
    torch.manual_seed(0)
    block, samples = KERNELS[name]().double().eval(), 16 if size == 4 else 2
    x = torch.randn(samples, 4, size).double()
    exact = torch.autograd.functional.jacobian(lambda y: block(y).sum(0), x)
    exact = torch.linalg.svdvals(exact.flatten(0, 1).flatten(2).transpose(0, 1))
    (row,) = kn.analysis.diagnose(nn.Sequential(block), x, iterations=200).blocks
    assert row.growth == pytest.approx(float(exact.max()), rel=1e-3)
    assert row.least_converged == (size == 4 or name not in BOUNDED)
    if row.least_converged:
        assert row.smallest == pytest.approx(float(exact.min()), rel=1e-3)
    assert row.smallest >= float(exact.min()) * (1 - 1e-9)


def test_convolutions_under_autocast_are_measured():
    """A layer before them hands on narrow numbers, the weights are wide."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Conv1d(4, 4, 3, padding=1)

        def forward(self, y):
            return y + self.second(self.first(y))

    torch.manual_seed(0)
    network, x = nn.Sequential(Mixed()), torch.randn(2, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = kn.analysis.diagnose(network, x).worst.growth
    assert found == pytest.approx(kn.analysis.diagnose(network, x).worst.growth, rel=0.02)


def test_a_convolution_before_what_goes_forward_alone():
    layer = nn.Conv1d(4, 4, 3, padding=1).double()
    y, v = torch.randn(2, 1, 4, 5, dtype=torch.float64)
    found = differentiated(lambda x: _Once.apply(layer(x)), y)
    assert isinstance(found, Tangents)
    torch.testing.assert_close(found.pushed(v), Jacobian(lambda x: layer(x).sin(), y).pushed(v))
