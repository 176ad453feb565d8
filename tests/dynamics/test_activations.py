"""Laws of activations: F' = f, and |f'| stays below the slope."""

import math
import pickle
import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

import keelnet as kn
from keelnet.dynamics import Activation
from keelnet.dynamics.activations import KNOWN, activation_from

EVERY_ACTIVATION = pytest.mark.parametrize("activation", KNOWN.values(), ids=KNOWN)
WITH_PRIMITIVE = [each for each in KNOWN.values() if each.primitive is not None]
# Away from 0, where a rectifier has no derivative.
LINE = torch.linspace(-15, 15, 3000, dtype=torch.float64)


@pytest.mark.parametrize("activation", WITH_PRIMITIVE, ids=lambda each: each.name)
def test_the_primitive_has_the_function_as_its_derivative(activation):
    x = LINE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(activation.primitive(x).sum(), x)
    torch.testing.assert_close(slope, activation(LINE), atol=1e-8, rtol=0)


@EVERY_ACTIVATION
def test_the_slope_is_the_largest_derivative(activation):
    x = LINE.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(activation(x).sum(), x)
    largest = float(derivative.abs().max())
    assert largest <= activation.slope * (1 + 1e-12)
    assert largest >= activation.slope * 0.999


def test_the_energy_of_tanh_stays_finite_where_cosh_overflows():
    x = torch.tensor([-2000.0, 2000.0], dtype=torch.float64)
    expected = torch.full((2,), 2000 - math.log(2), dtype=torch.float64)
    torch.testing.assert_close(KNOWN["tanh"].primitive(x), expected)


@EVERY_ACTIVATION
def test_a_name_stands_for_its_activation(activation):
    assert activation_from(activation.name) is activation
    assert activation_from(activation) is activation


def test_a_callable_is_taken_with_slope_one_and_no_energy():
    made = activation_from(nn.Softsign())
    assert (made.name, made.slope, made.primitive) == ("Softsign", 1.0, None)
    torch.testing.assert_close(made(LINE), LINE / (1 + LINE.abs()))
    assert activation_from(torch.erf).function is torch.erf
    assert activation_from(Activation("half", lambda x: x / 2, slope=0.5)).slope == 0.5


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("tahn", "unknown activation 'tahn'; known are tanh, relu"),
        (nn.PReLU(), "activation PReLU owns parameters"),
        (nn.Tanh, "a name or a function of a tensor, got <class"),
        (3, "a name or a function of a tensor, got 3"),
        (None, "got None"),
    ],
)
def test_other_activations_are_refused(choice, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        activation_from(choice)


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_activation_travels_to_another_process(name):
    assert pickle.loads(pickle.dumps(KNOWN[name])) == KNOWN[name]


@dataclass(frozen=True)
class Scaled(Activation):
    """Called otherwise than its function."""

    factor: float = 2.0

    def __call__(self, x):
        return self.factor * self.function(x)


@pytest.mark.parametrize("size", [4, 1 << 15])
def test_a_subclass_of_an_activation_is_itself_in_every_engine(size):
    field = kn.SingleField(kn.DenseKernel(2), Scaled("tanh", torch.tanh, slope=2.0))
    y0, controls = torch.randn(size, 2), {"weight": torch.randn(3, 2, 2), "bias": torch.randn(3, 2)}
    found = kn.propagate(kn.Euler(), field, y0, controls, 0.1)
    with kn.engine("reference"):
        torch.testing.assert_close(found, kn.propagate(kn.Euler(), field, y0, controls, 0.1))
    affine = kn.networks.Affine(2, 2, activation=Scaled("tanh", torch.tanh, slope=2.0))
    with kn.engine("reference"):
        expected = affine(y0)
    torch.testing.assert_close(affine(y0), expected)


FUNCTIONS = {
    torch.tanh: "tanh",
    functional.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    torch.relu: "relu",
    functional.relu: "relu",
    torch.sin: "sin",
    functional.gelu: "gelu",
    functional.silu: "silu",
    functional.elu: "elu",
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_a_known_function_is_the_activation_of_its_name(function):
    assert activation_from(function) is KNOWN[FUNCTIONS[function]]


MODULES = {
    "tanh": nn.Tanh(),
    "relu": nn.ReLU(),
    "identity": nn.Identity(),
    "sigmoid": nn.Sigmoid(),
    "softplus": nn.Softplus(),
    "elu": nn.ELU(),
    "leaky_relu": nn.LeakyReLU(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_known_module_has_slope_and_energy_and_stays_itself(name):
    made, known = activation_from(MODULES[name]), KNOWN[name]
    assert made.held() == {"activation": MODULES[name]} and made.function is MODULES[name]
    assert (made.slope, made.primitive, made.rising) == (known.slope, known.primitive, known.rising)
    torch.testing.assert_close(made(LINE), known(LINE))


@pytest.mark.parametrize(
    "module",
    [nn.ELU(2.0), nn.LeakyReLU(0.5), nn.Softplus(3.0), nn.GELU("tanh"), nn.Hardtanh()],
    ids=str,
)
def test_a_module_with_other_settings_is_a_callable_like_any_other(module):
    made = activation_from(module)
    assert (made.slope, made.primitive, made.rising) == (1.0, None, False)


@EVERY_ACTIVATION
def test_what_is_called_rising_is(activation):
    x = LINE.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(activation(x).sum(), x)
    assert activation.rising == (float(derivative.min()) >= 0)


@pytest.mark.parametrize(("name", "most"), [("gelu", 0.13), ("silu", 0.1)])
def test_what_falls_falls_by_no_more_than_is_said(name, most):
    x = LINE.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(KNOWN[name](x).sum(), x)
    assert 0.99 * most < -float(derivative.min()) <= most


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_an_activation_of_an_earlier_version_rises_as_its_function_does(known):
    old = object.__new__(Activation)
    old.__setstate__({name: value for name, value in vars(known).items() if name != "rising"})
    assert old == known
    assert pickle.loads(pickle.dumps(known)) == known
