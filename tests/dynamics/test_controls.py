"""Laws of controls: θ(t) is one function of time, whatever the depth and however fine the knots."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import FIELDS, branch, randn
from torch import nn
from torch.nn.utils import prune

import keelnet as kn

COUNTS = st.integers(1, 7)
INTERPOLATIONS = st.sampled_from(("constant", "linear"))
EVERY_INTERPOLATION = pytest.mark.parametrize("interpolation", ["constant", "linear"])


def drawn(knots: int, interpolation: str = "linear", seed: int = 0) -> kn.Control:
    values = {"weight": randn(knots, 2, 3, seed=seed), "bias": randn(knots, seed=seed + 1)}
    return kn.Control(values, interpolation)


def by_hand(value: torch.Tensor, time: float, interpolation: str) -> torch.Tensor:
    """θ at a time in knots: 0 is the first knot, len(value) the end."""
    left = math.floor(time)
    right = min(left + 1, len(value) - 1)
    share = time - left if interpolation == "linear" else 0.0
    return (1 - share) * value[left] + share * value[right]


@given(COUNTS, COUNTS, INTERPOLATIONS)
def test_a_layer_sees_theta_at_its_own_time(knots, depth, interpolation):
    control = drawn(knots, interpolation)
    for name, layers in control.at_layers(depth).items():
        value = control.values()[name]
        assert len(layers) == depth
        for layer in range(depth):
            # From integers: layer · knots / depth falls on a knot exactly or not at all.
            whole, rest = divmod(layer * knots, depth)
            expected = by_hand(value, whole + rest / depth, interpolation)
            torch.testing.assert_close(layers[layer], expected)


@given(COUNTS, st.integers(1, 4), st.integers(1, 20), INTERPOLATIONS)
def test_refinement_keeps_theta(knots, factor, depth, interpolation):
    control = drawn(knots, interpolation)
    finer = control.refined(factor)
    assert (finer.knots, finer.interpolation) == (factor * knots, interpolation)
    before, after = control.at_layers(depth), finer.at_layers(depth)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-12, atol=1e-12)


@given(COUNTS, COUNTS, COUNTS)
def test_constant_refinement_is_exact_and_composes(knots, first, second):
    control = drawn(knots, "constant")
    twice, once = control.refined(first).refined(second), control.refined(first * second)
    for name, value in once.values().items():
        assert torch.equal(twice.values()[name], value)
        assert torch.equal(value[:: first * second], control.values()[name])


@given(st.integers(2, 7), st.integers(1, 5))
def test_linear_refinement_leaves_the_smoothness_unchanged(knots, factor):
    """½/h Σ ‖Δθ‖²: finer steps, smaller differences."""

    def smoothness(control: kn.Control, h: float) -> float:
        return sum(
            float(v.detach().diff(dim=0).square().sum()) for v in control.values().values()
        ) / (2 * h)

    control = drawn(knots)
    before = smoothness(control, 1.0)
    assert before > 0
    assert smoothness(control.refined(factor), 1 / factor) == pytest.approx(before, rel=1e-12)


@given(COUNTS, INTERPOLATIONS)
def test_at_as_many_layers_as_knots_the_parameters_come_themselves(knots, interpolation):
    control = drawn(knots, interpolation)
    for name, layers in control.at_layers(knots).items():
        assert layers is control.get_parameter(name)


@EVERY_INTERPOLATION
def test_gradients_of_the_layers_reach_the_knots(interpolation):
    control = drawn(3, interpolation)
    push = randn(5, 2, 3, seed=9)
    (control.at_layers(5)["weight"] * push).sum().backward()
    value = control.values()["weight"]
    expected = torch.zeros_like(value)
    for layer in range(5):
        left, rest = divmod(layer * 3, 5)
        share = rest / 5 if interpolation == "linear" else 0.0
        expected[left] += (1 - share) * push[layer]
        expected[min(left + 1, 2)] += share * push[layer]
    torch.testing.assert_close(value.grad, expected)


def test_refined_controls_are_apart_from_their_origin():
    control = drawn(2)
    finer = control.refined(1)
    with torch.no_grad():
        finer.values()["weight"].zero_()
    assert bool((control.values()["weight"] != 0).all())
    assert all(value.requires_grad and value.is_leaf for value in finer.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_a_refined_control_learns_what_its_origin_learned_and_is_in_its_mode(training):
    control = drawn(2).train(training)
    control.values()["bias"].requires_grad_(False)
    finer = control.refined(3)
    assert finer.training is training
    learns = {name: value.requires_grad for name, value in finer.values().items()}
    assert learns == {"weight": True, "bias": False}
    assert all(value.is_leaf for value in finer.parameters())


def test_a_parameter_is_kept_and_a_tensor_is_copied():
    parameter, tensor = nn.Parameter(randn(2, 3)), randn(2)
    control = kn.Control({"weight": parameter, "bias": tensor})
    assert control.values()["weight"] is parameter
    tensor.zero_()
    assert bool((control.values()["bias"] != 0).all())
    assert {id(p) for p in control.parameters()} == {id(v) for v in control.values().values()}


def test_names_may_hold_dots_and_words_that_a_module_knows():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.knots, self.values = (nn.Parameter(randn(3, seed=s)) for s in range(2))
            self.inner = branch(3)

        def forward(self, x):
            return self.values * self.inner(self.knots * x)

    field = kn.ModuleField(Odd())
    control = kn.Control.random(field, 2)
    assert control.values().keys() == {"knots", "values", "inner.0.weight", "inner.0.bias"}
    assert control.knots == 2
    again = kn.Control.random(field, 2)
    with torch.no_grad():
        for value in control.parameters():
            value.mul_(2)
    again.load_state_dict(control.state_dict())
    for name, value in control.values().items():
        assert torch.equal(again.values()[name], value)
        assert torch.equal(value[0], 2 * field.module.get_parameter(name))
    y = kn.propagate(kn.Euler(), field, randn(2, 3), control.at_layers(3), 0.1)
    y.sum().backward()
    assert all(bool(value.grad.any()) for value in control.parameters())


@pytest.mark.parametrize("name", FIELDS)
def test_random_controls_fit_their_field_and_are_constant_in_time(name):
    field = FIELDS[name].field
    control = kn.Control.random(field, 3, torch.Generator().manual_seed(0))
    slots, values = field.theta_shapes(), control.values()
    assert values.keys() == slots.keys()
    for each, value in values.items():
        assert value.shape == (3, *slots[each].shape)
        assert torch.equal(value[0], value[1]) and torch.equal(value[0], value[2])
        if each.startswith("bias"):
            assert not value.any()
        if each.startswith("scale"):
            assert bool((value == 1).all())


def test_random_weights_keep_the_mean_square_of_a_layer():
    for kernel in (
        kn.DenseKernel(40, 30),
        kn.ConvKernel(10, 2, out_channels=12),
        kn.ConvKernel(64, 2, groups=64),
    ):
        field = kn.HamiltonianField(kernel)
        control = kn.Control.random(field, 1, torch.Generator().manual_seed(0), gain=2.0)
        spread = float(control.values()["weight"].detach().std()) * kernel.fan_in**0.5
        assert spread == pytest.approx(2.0, rel=0.1)


def test_a_generator_decides_the_random_controls():
    field = FIELDS["single"].field
    one, same, other = (
        kn.Control.random(field, 2, torch.Generator().manual_seed(seed)).values()["weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_bias_is_per_channel_scalar_or_absent():
    field = FIELDS["single"].field
    shapes = {
        bias: {
            n: tuple(v.shape) for n, v in kn.Control.random(field, 2, bias=bias).values().items()
        }
        for bias in ("channel", "scalar", "none")
    }
    weight = {"weight": (2, 3, 3)}
    assert shapes == {
        "channel": weight | {"bias": (2, 3)},
        "scalar": weight | {"bias": (2,)},
        "none": weight,
    }


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kn.Control({"a": randn(2), "b": randn(3)}), "got {'a': 2, 'b': 3}"),
        (lambda: kn.Control({}), "at least 1; got none"),
        (lambda: kn.Control({"a": randn(0, 2)}), "got {'a': 0}"),
        (lambda: kn.Control({"a": torch.tensor(1.0)}), "got {'a': 0}"),
        (lambda: kn.Control({"a": randn(2)}, "cubic"), '"constant" or "linear", got \'cubic\''),
        (lambda: drawn(2).at_layers(0), "depth must be an integer of at least 1, got 0"),
        (lambda: drawn(2).at_layers(2.0), "depth must be an integer of at least 1, got 2.0"),
        (lambda: drawn(2).refined(0), "factor must be an integer of at least 1, got 0"),
        (lambda: kn.Control.random(FIELDS["single"].field, 0), "knots must be an integer"),
        (lambda: kn.Control.random(FIELDS["single"].field, 2, bias="scaler"), "got 'scaler'"),
    ],
)
def test_other_controls_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


DEVICES = [
    "meta",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_generator_draws_on_its_own_device(device):
    field, generator = kn.SingleField(kn.DenseKernel(3)), torch.Generator()
    expected = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)) / 3**0.5
    with torch.device(device):
        control = kn.Control.random(field, 2, generator.manual_seed(1))
        layer = kn.Affine(3, 3, generator=generator.manual_seed(1))
    for value in (control.values()["weight"], layer.weight):
        assert value.device.type == device
        if device != "meta":
            one = value if value.ndim == 2 else value[0]
            torch.testing.assert_close(one.cpu(), expected)


def test_a_control_that_makes_its_values_itself_is_not_refined_to_another():
    class Bounded(kn.Control):
        def at_layers(self, depth):
            return {name: 0.1 * value.tanh() for name, value in super().at_layers(depth).items()}

    class Skew(torch.nn.Module):
        def forward(self, x):
            return x - x.mT

    plain = kn.Control({"weight": torch.randn(3, 2, 2)})
    torch.nn.utils.parametrize.register_parametrization(plain, "weight", Skew())
    for control in (Bounded({"weight": torch.randn(3, 2, 2)}), plain):
        with pytest.raises(ValueError, match="override refined"):
            control.refined(2)


def test_what_a_hook_makes_of_others_is_made_anew_at_every_call_and_not_refined():
    control = drawn(3)
    prune.random_unstructured(control, "weight", 0.5)
    with torch.no_grad():
        control.weight_orig.mul_(2)
    made = control.weight_orig * control.weight_mask
    assert not torch.equal(control.at_layers(3)["weight"], made)
    assert torch.equal(control(3)["weight"], made)
    with pytest.raises(ValueError, match=r"weight of the Control is made .*\.prune\.remove\("):
        control.refined(2)
    prune.remove(control, "weight")
    assert torch.equal(control.refined(2).at_layers(3)["weight"], made)


def test_a_call_gives_the_values_of_a_control_of_ones_own():
    class Bounded(kn.Control):
        def at_layers(self, depth):
            return {name: value.tanh() for name, value in super().at_layers(depth).items()}

    control = Bounded(drawn(3).values())
    for name, value in control(5).items():
        assert torch.equal(value, control.at_layers(5)[name])


FORMATS = [torch.channels_last, torch.channels_last_3d]


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("axes", [2, 3, 4, 5, 6])
def test_a_memory_format_of_images_leaves_controls_as_they_are(axes, layout):
    control = kn.Control({"weight": randn(*range(2, 2 + axes))})
    weight = control.values()["weight"]
    weight.sum().backward()
    before = weight.detach().clone()
    control.to(memory_format=layout)
    assert control.values()["weight"] is weight and torch.equal(weight, before)
    control.to(dtype=torch.float32, memory_format=layout)
    assert weight.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.detach(), before.float(), rtol=0, atol=0)


def test_no_other_error_of_a_conversion_is_passed_over():
    def convert(value):
        raise RuntimeError("required memory is not there")

    with pytest.raises(RuntimeError, match="required memory is not there"):
        drawn(2)._apply(convert)


def test_what_is_frozen_in_a_module_is_frozen_in_its_control():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[0].weight.requires_grad_(False)
    block = kn.Block(kn.Euler(), kn.ModuleField(module), 2)
    for control in (block.control, block.refined().control, kn.Control.random(block.field, 3)):
        frozen = {name for name, value in control.values().items() if not value.requires_grad}
        assert frozen == {"0.weight"}
