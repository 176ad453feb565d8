"""Laws of fields of one part: spectra, potentials, and what a bias means."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from problems import FIELDS, KERNELS, PLAIN, SQUARE, FieldCase, jacobian, randn
from torch.func import jacrev
from torch.nn import functional

import keelnet as kn
from keelnet.dynamics import Field

ANTISYMMETRIC = [n for n, c in FIELDS.items() if isinstance(c.field, kn.AntisymmetricField)]
SYMMETRIC = [n for n in PLAIN if isinstance(FIELDS[n].field, kn.SymmetricField)]
PLAIN_FIELDS = [n for n in PLAIN if isinstance(FIELDS[n].field, Field)]
DENSE = kn.DenseKernel(3)


def linear_spectrum(case: FieldCase, theta: dict) -> torch.Tensor:
    """Eigenvalues of the Jacobian with f = identity, on a small grid."""
    linear = case.activated("identity")
    return torch.linalg.eigvals(jacobian(linear.field, (linear.y0(1),), theta))


def of_one_layer(theta: dict) -> dict:
    return {name: value[None] for name, value in theta.items()}


@pytest.mark.parametrize("name", ANTISYMMETRIC)
def test_antisymmetric_spectrum_has_real_part_minus_half_the_damping(name):
    case = FIELDS[name]
    real = linear_spectrum(case, case.theta()).real
    torch.testing.assert_close(real, torch.full_like(real, -case.field.damping / 2))


@pytest.mark.parametrize("name", ANTISYMMETRIC)
def test_antisymmetric_frequencies_bound_the_imaginary_parts(name):
    case = FIELDS[name]
    theta = case.theta()
    true = float(linear_spectrum(case, theta).imag.abs().max())
    bound = float(case.field.frequencies(of_one_layer(theta))[0])
    assert true <= bound * (1 + 1e-12)
    if not case.space:
        assert true == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_rate_is_minus_the_gradient_of_the_potential(name):
    case, theta = FIELDS[name], FIELDS[name].theta()
    for activation in ("tanh", "relu", "sin", "sigmoid", "identity"):
        field = case.activated(activation).field
        y = case.y0().requires_grad_()
        (gradient,) = torch.autograd.grad(field.potential(y, theta).sum(), y)
        torch.testing.assert_close(field.rate(y, theta), -gradient)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_spectrum_bounds_the_stiffness(name):
    case, theta = FIELDS[name], FIELDS[name].theta()
    true = linear_spectrum(case, theta)
    bound = float(case.field.spectrum(of_one_layer(theta)).real.min())
    assert float(true.imag.abs().max()) < 1e-10
    assert float(true.real.max()) < 1e-12
    assert bound * (1 + 1e-12) <= float(true.real.min())
    if not case.space:
        assert float(true.real.min()) == pytest.approx(bound)


def test_single_spectrum_is_that_of_the_weight():
    case = FIELDS["single"]
    theta = case.theta()
    known = case.field.spectrum(of_one_layer(theta))[0]
    true = linear_spectrum(case, theta)
    distances = (known[:, None] - true[None, :]).abs()
    assert float(distances.amin(0).max()) < 1e-12 > float(distances.amin(1).max())


@pytest.mark.parametrize(("dim", "groups"), [(1, 1), (1, 2), (2, 1)])
def test_single_spectrum_of_a_convolution_is_that_on_a_ring(dim, groups):
    """Every eigenvalue of the convolution on a ring of 16 voxels an axis, whose frequencies are those looked at."""
    kernel = kn.ConvKernel(2, dim=dim, groups=groups)
    weight = torch.randn(
        1, *kernel.weight_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    found = kn.SingleField(kernel, activation="identity").spectrum({"weight": weight}).ravel()
    found = torch.cat([found, found.conj()])
    units = torch.eye(2 * 16**dim, dtype=torch.float64).reshape(-1, 2, *(16,) * dim)
    padded = functional.pad(units, (1, 1) * dim, mode="circular")
    convolved = (functional.conv1d, functional.conv2d)[dim - 1](padded, weight[0], groups=groups)
    true = torch.linalg.eigvals(convolved.flatten(1))
    distances = (found[:, None] - true[None, :]).abs()
    assert float(distances.amin(0).max()) < 1e-8 > float(distances.amin(1).max())


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "silu", "tanh"])
def test_spectra_scale_with_the_slope_of_the_activation(activation):
    slope = {"sigmoid": 0.25, "gelu": 1.129, "silu": 1.0999, "tanh": 1.0}[activation]
    for name in PLAIN:
        controls = FIELDS[name].controls(2)
        plain = FIELDS[name].activated("identity").field.spectrum(controls)
        bent = FIELDS[name].activated(activation).field.spectrum(controls)
        torch.testing.assert_close(bent, slope * plain)


@pytest.mark.parametrize("name", PLAIN_FIELDS)
def test_a_scalar_bias_is_the_same_number_on_every_channel(name):
    case, theta = FIELDS[name], FIELDS[name].theta()
    y, scalar = case.y0(), torch.tensor(0.3, dtype=torch.float64)
    alike = theta | {"bias": scalar.expand(theta["bias"].shape)}
    expected = case.field.rate(y, alike)
    torch.testing.assert_close(case.field.rate(y, theta | {"bias": scalar}), expected)
    assert not torch.allclose(case.field.rate(y, theta), expected)


@pytest.mark.parametrize("name", PLAIN_FIELDS)
def test_an_absent_bias_is_zero(name):
    case, theta = FIELDS[name], FIELDS[name].theta()
    y, zero = case.y0(), torch.zeros_like(theta["bias"])
    expected = case.field.rate(y, theta | {"bias": zero})
    torch.testing.assert_close(case.field.rate(y, {"weight": theta["weight"]}), expected)


@pytest.mark.parametrize("name", [n for n, c in FIELDS.items() if isinstance(c.field, Field)])
def test_rates_keep_the_shape_and_treat_samples_apart(name):
    case, theta = FIELDS[name], FIELDS[name].theta()
    y = case.y0(3)
    (rate,) = case.field.rates(case.field.parts(y), theta)
    assert rate.shape == y.shape
    torch.testing.assert_close(rate[1:2], case.field.rate(y[1:2], theta))


def test_a_normed_field_scales_and_shifts_after_the_norm():
    case = FIELDS["single normed"]
    y, theta = case.y0(), case.theta()
    mixed = case.field.kernel.apply(theta["weight"], y)
    normed = functional.instance_norm(mixed)
    scale, bias = (theta[each].reshape(-1, 1, 1) for each in ("scale", "bias"))
    torch.testing.assert_close(case.field.rate(y, theta), torch.tanh(scale * normed + bias))


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_a_learned_damping_gets_its_gradient(start):
    """Also at 0, where the field does not contract yet."""
    damping = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    y, weight = randn(2, 3), randn(3, 3, seed=1)

    def rate(damping: torch.Tensor) -> torch.Tensor:
        return kn.AntisymmetricField(DENSE, "tanh", damping).rate(y, {"weight": weight})

    assert torch.autograd.gradcheck(rate, (damping,))
    torch.testing.assert_close(
        rate(damping), kn.AntisymmetricField(DENSE, "tanh", start).rate(y, {"weight": weight})
    )


def test_automatic_damping_has_no_rate_of_its_own():
    field = kn.AntisymmetricField(DENSE, "tanh", "auto")
    with pytest.raises(ValueError, match="depends on the step size; call propagate"):
        field.rate(randn(2, 3), {"weight": randn(3, 3)})


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "damping", [-0.1, float("nan"), float("inf"), "least", None, torch.ones(2)], ids=repr
)
def test_other_dampings_are_refused(damping):
    with pytest.raises(ValueError, match=r'at least 0, a tensor of one, or "auto"; got'):
        kn.AntisymmetricField(DENSE, "tanh", damping)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.longdouble, np.int64, Fraction, int])
def test_a_damping_of_any_real_type_is_the_float_that_it_is(kind):
    field = kn.AntisymmetricField(DENSE, "tanh", kind(1))
    assert type(field.damping) is float and field == kn.AntisymmetricField(DENSE, "tanh", 1.0)
    y0, controls = randn(2, 3), {"weight": randn(4, 3, 3)}
    found, expected = (
        kn.propagate(kn.Euler(), each, y0, controls, 0.1)
        for each in (field, kn.AntisymmetricField(DENSE, "tanh", 1.0))
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("make", [kn.SingleField, kn.AntisymmetricField])
@pytest.mark.parametrize("name", sorted(KERNELS.keys() - SQUARE))
def test_rectangular_kernels_are_refused_where_the_rate_is_f(make, name):
    kernel = KERNELS[name].kernel
    wanted = f"needs a square kernel, got {kernel.inputs} → {kernel.outputs} channels"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        make(kernel)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("make", [kn.SingleField, kn.SymmetricField, kn.HamiltonianField])
def test_a_field_needs_a_kernel(make):
    with pytest.raises(ValueError, match=f"{make.__name__} needs a Kernel, got 3"):
        make(3)


def test_no_potential_is_made_up():
    y, theta = randn(2, 3), {"weight": randn(3, 3)}
    for field in (
        kn.SymmetricField(DENSE, "gelu"),
        kn.SymmetricField(DENSE, "tanh", norm=kn.ChannelNorm()),
    ):
        with pytest.raises(ValueError, match="no energy is known for activation"):
            field.potential(y, theta)


@pytest.mark.parametrize(
    "name", [name for name, case in FIELDS.items() if getattr(case.field, "norm", None)]
)
def test_under_a_norm_no_spectrum_is_known(name):
    field = FIELDS[name].field
    assert field.spectrum(FIELDS[name].controls(2)) is None
    assert replace(field, norm=None).spectrum(FIELDS[name].controls(2)) is not None


@dataclass(frozen=True)
class LowRank(kn.DenseKernel):
    """K = U Vᵀ of a weight (2, n, r): not linear in it."""

    linear: ClassVar[bool] = False

    @property
    def weight_shape(self):
        return (2, self.n, 2)

    def apply(self, weight, y):
        return y @ weight[0] @ weight[1].mT

    def adjoint(self, weight, z):
        return z @ weight[1] @ weight[0].mT

    def symbol(self, weights):
        return weights[..., 0, :, :] @ weights[..., 1, :, :].mT, 1.0


def test_a_kernel_that_is_not_linear_in_its_weight_is_antisymmetric_too():
    field = kn.AntisymmetricField(LowRank(4), "identity", 0.0)
    weight = randn(2, 4, 2)
    rate = jacrev(lambda y: field.rate(y, {"weight": weight}))(torch.zeros(4).double())
    torch.testing.assert_close(rate, -rate.mT)
    (omega,) = field.frequencies({"weight": weight[None]})
    torch.testing.assert_close(torch.linalg.eigvals(rate).abs().max(), omega)
