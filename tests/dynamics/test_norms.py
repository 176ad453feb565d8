"""Laws of norms: they forget size, and know no statistics beyond the sample itself."""

import pytest
import torch
from problems import randn
from torch.nn import functional

from keelnet.dynamics import ChannelNorm, InstanceNorm

CASES = {
    "channel norm of rows": (ChannelNorm(), (5, 4), -1),
    "channel norm 1-D": (ChannelNorm(), (3, 4, 6), 1),
    "channel norm 3-D": (ChannelNorm(), (3, 4, 2, 3, 2), 1),
    "instance norm 1-D": (InstanceNorm(), (3, 4, 6), 1),
    "instance norm 2-D": (InstanceNorm(), (3, 4, 3, 5), 1),
    "instance norm 3-D": (InstanceNorm(), (3, 4, 2, 3, 2), 1),
}
EVERY_NORM = pytest.mark.parametrize(("norm", "shape", "axis"), CASES.values(), ids=CASES)
CHANNEL = pytest.mark.parametrize(("shape", "axis"), [((5, 4), -1), ((3, 4, 2, 3), 1)])


@EVERY_NORM
def test_a_sample_does_not_see_its_neighbours(norm, shape, axis):
    x = randn(*shape)
    torch.testing.assert_close(norm.apply(x, axis)[1:2], norm.apply(x[1:2], axis))


@EVERY_NORM
def test_size_is_forgotten(norm, shape, axis):
    x = randn(*shape)
    torch.testing.assert_close(
        norm.apply(1e5 * x, axis), norm.apply(1e6 * x, axis), rtol=1e-6, atol=1e-6
    )


@EVERY_NORM
def test_zero_stays_zero_with_a_finite_derivative(norm, shape, axis):
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    y = norm.apply(x, axis)
    assert torch.equal(y, torch.zeros_like(y))
    (gradient,) = torch.autograd.grad((y * randn(*shape)).sum(), x)
    assert bool(gradient.isfinite().all())


@CHANNEL
def test_channel_norm_divides_by_the_root_mean_square(shape, axis):
    x = randn(*shape)
    mean = x.square().mean(axis, keepdim=True)
    torch.testing.assert_close(ChannelNorm(0.1).apply(x, axis), x / (mean + 0.1).sqrt())


@pytest.mark.parametrize("shape", [(3, 4, 6), (3, 4, 3, 5), (3, 4, 2, 3, 2)])
def test_instance_norm_is_that_of_torch(shape):
    x = randn(*shape) + 3
    torch.testing.assert_close(
        InstanceNorm(0.01).apply(x, 1), functional.instance_norm(x, eps=0.01)
    )


def test_instance_norm_refuses_states_without_space():
    with pytest.raises(
        ValueError, match=r"needs space axes, got a state \(2, 3\); use ChannelNorm"
    ):
        InstanceNorm().apply(torch.zeros(2, 3), -1)


@EVERY_NORM
def test_large_numbers_of_half_precision_do_not_overflow(norm, shape, axis):
    x = 600 * randn(*shape).sign()  # its square is no number of float16
    half = norm.apply(x.half(), axis)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), norm.apply(x, axis), rtol=1e-2, atol=1e-2)
