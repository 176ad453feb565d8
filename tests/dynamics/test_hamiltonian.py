"""Laws of partitioned fields: they turn along their energy and never across it."""

import re

import pytest
import torch
from problems import FIELDS, PLAIN, FieldCase, jacobian, randn

import keelnet as kn
from keelnet.dynamics import PartitionedField

PAIRS = [n for n in PLAIN if isinstance(FIELDS[n].field, PartitionedField)]
DOUBLE = [n for n in PAIRS if isinstance(FIELDS[n].field, kn.DoubleHamiltonianField)]
ALL_PAIRS = [n for n, c in FIELDS.items() if isinstance(c.field, PartitionedField)]
ENERGETIC = ("tanh", "relu", "sin", "sigmoid", "identity")


def energy_gradients(case: FieldCase, theta: dict) -> tuple:
    y, z = (part.clone().requires_grad_() for part in case.field.parts(case.y0()))
    energy = case.field.energy(y, z, theta)
    assert energy.shape == (2,)
    return (y.detach(), z.detach()), torch.autograd.grad(energy.sum(), (y, z))


@pytest.mark.parametrize("name", PAIRS)
def test_the_flow_keeps_the_energy(name):
    for activation in ENERGETIC:
        case = FIELDS[name].activated(activation)
        theta = case.theta()
        parts, gradients = energy_gradients(case, theta)
        rates = case.field.rates(parts, theta)
        powers = [float((g * r).sum()) for g, r in zip(gradients, rates, strict=True)]
        assert abs(powers[0]) > 1e-3
        assert sum(powers) == pytest.approx(0, abs=1e-12 * max(1, abs(powers[0])))


@pytest.mark.parametrize("name", DOUBLE)
def test_two_kernels_move_along_the_symplectic_gradient(name):
    for activation in ENERGETIC:
        case = FIELDS[name].activated(activation)
        theta = case.theta()
        (y, z), (by_y, by_z) = energy_gradients(case, theta)
        torch.testing.assert_close(case.field.rate_of_y(z, theta), by_z)
        torch.testing.assert_close(case.field.rate_of_z(y, theta), -by_y)


@pytest.mark.parametrize("name", PAIRS)
def test_the_linear_flow_only_oscillates_and_no_faster_than_the_frequency(name):
    linear = FIELDS[name].activated("identity")
    theta = linear.theta()
    spectrum = torch.linalg.eigvals(jacobian(linear.field, linear.field.parts(linear.y0(1)), theta))
    bound = float(linear.field.frequencies({n: v[None] for n, v in theta.items()})[0])
    assert float(spectrum.real.abs().max()) < 1e-7 * bound
    fastest = float(spectrum.imag.abs().max())
    assert fastest <= bound * (1 + 1e-12)
    if not linear.space and name not in DOUBLE:
        assert fastest == pytest.approx(bound)


@pytest.mark.parametrize("name", ALL_PAIRS)
def test_joining_undoes_the_split(name):
    case = FIELDS[name]
    y0 = case.y0()
    assert case.field.is_split(y0)
    assert torch.equal(case.field.joined(case.field.parts(y0), True), y0)


@pytest.mark.parametrize("name", [n for n in ALL_PAIRS if n != "module pair"])
def test_features_of_y_alone_start_z_at_zero(name):
    case = FIELDS[name]
    n, k = case.field.widths
    y0 = randn(2, n, *case.space)
    y, z = case.field.parts(y0)
    assert torch.equal(y, y0) and torch.equal(z, torch.zeros(2, k, *case.space))
    assert z.dtype == y0.dtype
    assert torch.equal(case.field.joined((y, z), case.field.is_split(y0)), y0)


@pytest.mark.parametrize("name", [n for n in ALL_PAIRS if n != "module pair"])
@pytest.mark.parametrize("extra", [-1, 1])
def test_other_channel_counts_are_refused_with_both_ways_out(name, extra):
    case = FIELDS[name]
    wrong = randn(2, case.channels + extra, *case.space)
    wanted = f"or {case.channels} channels for y and z together"
    with pytest.raises(ValueError, match=wanted):
        case.field.parts(wrong)


@pytest.mark.parametrize("shape", [(), (2,)])
@pytest.mark.parametrize("name", ["hamiltonian", "double", "hamiltonian conv2"])
def test_states_without_channels_are_refused(name, shape):
    with pytest.raises(ValueError, match=re.escape(f"got {shape}")):
        FIELDS[name].field.parts(torch.zeros(shape))


def test_one_bias_serves_both_halves():
    case = FIELDS["hamiltonian"]
    theta = case.theta()
    y = randn(2, 3)
    weight, bias = theta["weight"], theta["bias"]
    torch.testing.assert_close(case.field.rate_of_z(y, theta), -torch.tanh(y @ weight + bias))
    torch.testing.assert_close(case.field.rate_of_y(y, theta), torch.tanh(y @ weight.T + bias))


def test_a_rectangular_kernel_takes_a_scalar_bias_or_none():
    case = FIELDS["hamiltonian 3x5"]
    theta = case.theta()
    assert case.field.theta_shapes()["bias"].shape == theta["bias"].shape == ()
    y, z = case.field.parts(case.y0())
    without = {"weight": theta["weight"]}
    zero = without | {"bias": torch.zeros((), dtype=torch.float64)}
    for before, after in zip(
        case.field.rates((y, z), without), case.field.rates((y, z), zero), strict=True
    ):
        torch.testing.assert_close(before, after)


def test_two_kernels_are_numbered_by_the_part_they_drive():
    case = FIELDS["double 3x5"]
    theta, x = case.theta(), randn(2, 3)
    first, second = theta["weight_1"], theta["weight_2"]
    assert first.shape == (3, 3) and second.shape == (3, 5)
    driven = torch.tanh(x @ first + theta["bias_1"]) @ first.T
    torch.testing.assert_close(case.field.rate_of_y(x, theta), driven)
    driven = -torch.tanh(x @ second + theta["bias_2"]) @ second.T
    torch.testing.assert_close(case.field.rate_of_z(x, theta), driven)


def test_kernels_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="two kernels of one kind with equal input channels"):
        kn.DoubleHamiltonianField(kn.DenseKernel(3), kn.DenseKernel(4))
    with pytest.raises(ValueError, match="two kernels of one kind"):
        kn.DoubleHamiltonianField(kn.DenseKernel(3), kn.ConvKernel(3))
    with pytest.raises(ValueError, match="needs a square kernel, got 3 → 5"):
        kn.HamiltonianField(kn.DenseKernel(3, 5), norm=kn.ChannelNorm())


def test_no_energy_is_made_up():
    case = FIELDS["hamiltonian"].activated("softplus")
    with pytest.raises(ValueError, match="no energy is known for activation 'softplus'"):
        case.field.energy(*case.field.parts(case.y0()), case.theta())


def test_under_a_norm_there_is_no_step_bound():
    """The norm multiplies small features by up to 1 / √eps: no step below 2 / ‖K‖ is safe."""
    kernel = kn.DenseKernel(3)
    controls = {"weight": torch.eye(3)[None], "scale": torch.ones(1, 3)}
    assert kn.step_bound(kn.Verlet(), kn.HamiltonianField(kernel), {"weight": controls["weight"]})
    normed = kn.HamiltonianField(kernel, norm=kn.ChannelNorm())
    assert kn.step_bound(kn.Verlet(), normed, controls) is None


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
@pytest.mark.parametrize("name", ["hamiltonian", "hamiltonian 3x5", "double"])
def test_a_single_dense_sample_of_both_parts_travels_as_in_a_batch_of_one(name, strategy, engine):
    case = FIELDS[name]
    ends = []
    for y0 in (case.y0(1)[0], case.y0(1)):
        y0.requires_grad_()
        with kn.engine(engine):
            y = kn.propagate(kn.Verlet(), case.field, y0, case.controls(4), 0.1, strategy)
        (slope,) = torch.autograd.grad(y.square().sum(), y0)
        ends.append((y.reshape(-1), slope.reshape(-1)))
        assert y.shape == y0.shape
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("shape", [(4,), (3, 4, 5), (2, 5, 5)])
def test_images_outside_of_a_batch_are_refused_as_they_came(shape):
    """Also where an axis of space is as long as both parts have channels."""
    with pytest.raises(ValueError, match=re.escape(f"height, width); got {shape}")):
        FIELDS["hamiltonian conv2"].field.parts(torch.zeros(shape))
