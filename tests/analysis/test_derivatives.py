"""J v and Jᵀ w are of one J, also of maps in which autograd sees a black box."""

import pytest
import torch
from functions import Foreign, Lying, Once, Twice
from torch import nn

import keelnet as kn
from keelnet.analysis.derivatives import (
    Jacobian,
    Quotients,
    Rows,
    Tangents,
    agrees,
    differentiated,
    sound,
)
from keelnet.analysis.singular import extremes
from keelnet.analysis.uncertainty import sensitivity


class Box(nn.Module):
    """x + gain · W₂ f(W₁ x)."""

    def __init__(self, function, width, gain=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Linear(width, width).double() for _ in range(2))
        self.function, self.gain = function, gain

    def forward(self, x):
        return x + self.gain * self.second(self.function(self.first(x)))


def features(width, samples=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, width, dtype=torch.float64, generator=generator)


def singular_values(block, x):
    """(samples, width), of rows that each are one pull-back."""
    whole = torch.autograd.functional.jacobian(lambda y: block(y).sum(0), x).transpose(0, 1)
    return torch.linalg.svdvals(whole)


@pytest.mark.parametrize("gain", [0.25, 1.0, 5.0])
@pytest.mark.parametrize("width", [10, 100])
@pytest.mark.parametrize("function", [Once, Foreign, Twice])
def test_the_growth_of_a_black_box_is_that_of_its_pull_backs(function, width, gain):
    block, x = Box(function.apply, width, gain), features(width)
    exact = singular_values(block, x)
    (row,) = kn.analysis.diagnose(nn.Sequential(block), x, iterations=200).blocks
    assert row.growth == pytest.approx(float(exact.max()), rel=2e-3)
    # Alone of a large map with second derivatives it is iterated, which these do not end.
    assert row.least_converged == (width == 10 or function is not Twice)
    if row.least_converged:
        assert row.smallest == pytest.approx(float(exact.min()), rel=2e-3)
    assert row.smallest >= float(exact.min()) * (1 - 1e-9)
    assert row.growth <= float(exact.max()) * (1 + 1e-6)


@pytest.mark.parametrize("gain", [0.25, 1.0])
@pytest.mark.parametrize("function", [Once, Foreign])
def test_of_a_large_black_box_nothing_beyond_the_truth_is_said(function, gain):
    block, x = Box(function.apply, 420, gain), features(420)
    exact = singular_values(block, x)
    report = kn.analysis.diagnose(nn.Sequential(block), x, iterations=40)
    (row,) = report.blocks
    assert 0.95 * float(exact.max()) <= row.growth <= float(exact.max()) * (1 + 1e-9)
    assert row.smallest >= float(exact.min()) * (1 - 1e-9)
    assert not row.converged and "≥" in str(report) and report.notes == ()


@pytest.mark.parametrize("width", [10, 420])
def test_a_box_that_moves_otherwise_than_its_backward_says_is_named(width):
    report = kn.analysis.diagnose(nn.Sequential(Box(Lying.apply, width)), features(width))
    assert report.notes[0].startswith("0: a small change of the input moves the output otherwise")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_autograd_sees_through_keeps_one_graph(dtype):
    """Rounding is no reason to go another way."""
    layers = [Box(Twice.apply, 80, 30.0) for _ in range(8)]
    network, x = nn.Sequential(*layers).to(dtype), 1e3 * features(80).to(dtype)
    assert isinstance(sound(network, x), Jacobian)
    assert isinstance(sound(nn.Sequential(*[Box(torch.tanh, 80, 30.0)] * 8).to(dtype), x), Jacobian)


class Dual(Once):
    @staticmethod
    def forward(context, x):
        context.save_for_forward(x)
        return Once.forward(context, x)

    @staticmethod
    def jvp(context, v):
        return v * (1 - context.saved_tensors[0].tanh() ** 2)


def test_a_box_with_a_forward_mode_is_exact_at_every_size():
    block, x = Box(Dual.apply, 420), features(420)
    found = differentiated(block, x)
    assert isinstance(found, Tangents)
    assert extremes(found, 400).largest == pytest.approx(singular_values(block, x)[:, 0].numpy())


@pytest.mark.parametrize(("width", "kind"), [(30, Rows), (420, Quotients)])
def test_distances_have_but_one_derivative(width, kind):
    """Torch knows neither a second derivative nor a forward mode of cdist."""
    torch.manual_seed(0)
    centres, back = torch.randn(6, width).double(), torch.randn(6, width).double()

    def function(x):
        return x + torch.exp(-torch.cdist(x, centres) / width**0.5) @ back

    x, v, w = features(width), *torch.randn(2, 2, width).double()
    found = differentiated(function, x)
    assert isinstance(found, kind)
    whole = torch.autograd.functional.jacobian(lambda y: function(y).sum(0), x).transpose(0, 1)
    torch.testing.assert_close(found.matrix(), whole)
    torch.testing.assert_close(found.pulled(w), torch.einsum("bij,bi->bj", whole, w))
    exact = torch.einsum("bij,bj->bi", whole, v)
    torch.testing.assert_close(found.pushed(v), exact, rtol=1e-5, atol=1e-6)
    assert not kind.certain or agrees(found)


@pytest.mark.parametrize("side", [4, 30])
def test_the_sensitivity_of_a_black_box(side):
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * Foreign.apply(x)

    found = sensitivity(Doubled(), torch.full((1, 1, side, side), 1e-3, dtype=torch.float64))
    assert found.growth == pytest.approx(2.0, rel=1e-4) and found.growth <= 2


@pytest.mark.parametrize("method", [kn.Euler(), kn.Verlet(), kn.RK4()])
@pytest.mark.parametrize("width", [8, 80])
def test_black_boxes_as_fields_of_a_block(width, method):
    boxes = [Box(Foreign.apply, width) for _ in range(3)]
    subject = kn.stabilised(boxes, method, step_size=0.5)
    x = features(width, 1)
    exact = float(singular_values(lambda y: subject.propagated(y, kn.store_all), x).max())
    report = kn.analysis.stability(subject, x, layers=[1], iterations=60)
    (row,) = report.blocks
    assert 0.99 * exact <= row.growth <= exact * (1 + 1e-6)
    assert row.converged == (width == 8)
    assert 0.8 * exact <= row.course[-1][0] <= exact * (1 + 1e-4)
