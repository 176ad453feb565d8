"""Laws of the door: what goes in comes out, path and end agree, and what cannot work is refused in words."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import FIELDS, METHODS, SCHEMES, branch, randn
from torch.func import functional_call, jacfwd, jacrev, jvp, vmap

import keelnet as kn

H = 0.1
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
CORE = {
    name: SCHEMES[name]
    for name in (
        "euler on antisymmetric damped",
        "rk4 on single",
        "imex cholesky on symmetric",
        "imex fft on single conv2 grouped",
        "verlet on hamiltonian 3x5",
        "verlet half on double conv1",
        "leapfrog on symmetric conv2 3x2",
        "midpoint on antisymmetric",
        "euler on module",
    )
}
EVERY_CORE = pytest.mark.parametrize("scheme", CORE.values(), ids=CORE)


@EVERY_SCHEME
def test_the_trajectory_has_a_state_before_each_layer_and_ends_where_propagate_does(scheme):
    y0, controls = scheme.case.y0(), scheme.case.controls(5)
    states = kn.trajectory(scheme.integrator, scheme.field, y0, controls, H)
    assert len(states) == 6
    assert all(type(state) is tuple for state in states)
    for first, wanted in zip(states[0], scheme.state(y0), strict=True):
        assert torch.equal(first, wanted)
    field = scheme.integrator.adapted(scheme.field)
    end = field.joined(scheme.integrator.finish(states[-1]), field.is_split(y0))
    y = scheme.run(y0, controls, H)
    torch.testing.assert_close(y, end, rtol=1e-13, atol=1e-13)
    assert y.shape == y0.shape
    for depth in (1, 3):
        earlier = {name: value[:depth] for name, value in controls.items()}
        torch.testing.assert_close(
            kn.trajectory(scheme.integrator, scheme.field, y0, earlier, H)[-1], states[depth]
        )


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple])
def test_layers_of_a_path_may_be_named_by_integers_of_any_kind(kind, engine):
    scheme = SCHEMES["euler on single"]
    arguments = scheme.integrator, scheme.field, scheme.case.y0(), scheme.case.controls(5), H
    with kn.engine(engine):
        every = kn.trajectory(*arguments)
        picked = kn.trajectory(*arguments, layers=kind([0, 2, 5]))
    assert len(picked) == 3
    for state, layer in zip(picked, (0, 2, 5), strict=True):
        torch.testing.assert_close(state, every[layer])


@pytest.mark.parametrize("layers", [[0.5], torch.tensor([1.0]), 3, [[1]], ["1"]], ids=repr)
def test_layers_of_a_path_that_are_no_integers_are_refused(layers):
    with pytest.raises(ValueError, match="must name layers from 0 to 4, at least one, in rising"):
        kn.trajectory(kn.Euler(), DENSE, randn(2, 3), {"weight": WEIGHT}, H, layers=layers)


@EVERY_SCHEME
def test_samples_travel_alone(scheme):
    y0, controls = scheme.case.y0(3), scheme.case.controls(4)
    together = scheme.run(y0, controls, H)
    for sample in range(3):
        alone = scheme.run(y0[sample : sample + 1], controls, H)
        torch.testing.assert_close(together[sample : sample + 1], alone)


@EVERY_SCHEME
def test_the_inputs_are_left_as_they_were(scheme):
    y0, controls = scheme.case.y0(), scheme.case.controls(4)
    copies = [x.clone() for x in (y0, *controls.values())]
    scheme.run(y0, controls, H)
    assert all(
        torch.equal(x, copy) for x, copy in zip((y0, *controls.values()), copies, strict=True)
    )


@pytest.mark.parametrize(
    "name", ["hamiltonian", "hamiltonian 3x5", "hamiltonian conv1 2x3", "double", "double conv2"]
)
@pytest.mark.parametrize("start", ["full", "half"])
@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_features_of_y_alone_are_those_with_z_zero(name, start, strategy):
    case = FIELDS[name]
    n, k = case.field.widths
    y0, controls = randn(2, n, *case.space), case.controls(4)
    whole = torch.cat((y0, torch.zeros(2, k, *case.space).double()), 1)
    method = kn.Verlet(start)
    y = kn.propagate(method, case.field, y0, controls, H, strategy=strategy)
    both = kn.propagate(method, case.field, whole, controls, H, strategy=strategy)
    assert y.shape == y0.shape and both.shape == whole.shape
    torch.testing.assert_close(both[:, :n], y)


@EVERY_CORE
@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_memory_layout_does_not_matter(scheme, strategy):
    if strategy is kn.reversible and not scheme.reversible:
        strategy = kn.checkpointed
    y0, controls = scheme.case.y0(), scheme.case.controls(4)
    scattered = y0.movedim(0, -1).contiguous().movedim(-1, 0)
    spread = {name: value.repeat_interleave(2, 0)[::2] for name, value in controls.items()}
    assert (
        not scattered.is_contiguous()
        and not spread["weight" if "weight" in spread else next(iter(spread))].is_contiguous()
    )
    gradients = []
    for features, layers in ((y0, controls), (scattered, spread)):
        leaves = [x.detach().requires_grad_() for x in (features, *layers.values())]
        held = dict(zip(layers, leaves[1:], strict=True))
        value = scheme.run(leaves[0], held, H, strategy=strategy)
        gradients.append([value, *torch.autograd.grad(value.square().sum(), leaves)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@EVERY_CORE
@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_an_empty_batch_passes(scheme, strategy):
    if strategy is kn.reversible and not scheme.reversible:
        strategy = kn.checkpointed
    y0 = scheme.case.y0(0).requires_grad_()
    controls = {name: value.requires_grad_() for name, value in scheme.case.controls(4).items()}
    value = scheme.run(y0, controls, H, strategy=strategy)
    assert value.shape == y0.shape
    value.sum().backward()
    assert y0.grad.shape == y0.shape
    assert all(not value.grad.any() for value in controls.values())


@EVERY_SCHEME
def test_looking_at_the_numbers_does_not_change_them(scheme):
    y0, controls = scheme.case.y0(), scheme.case.controls(3)
    checked, unchecked = (scheme.run(y0, controls, H, checked=each) for each in (True, False))
    assert torch.equal(checked, unchecked)


@EVERY_CORE
def test_forward_mode_gives_the_derivative_along_a_direction(scheme):
    y0, controls = scheme.case.y0(), scheme.case.controls(3)
    push = [randn(*x.shape, seed=20 + n) for n, x in enumerate((y0, *controls.values()))]

    def final(y0, *values):
        return scheme.run(y0, dict(zip(controls, values, strict=True)), H)

    given = (y0, *controls.values())
    value, along = jvp(final, given, tuple(push))
    torch.testing.assert_close(value, final(*given), rtol=1e-13, atol=1e-13)
    step = 1e-6
    ends = [
        final(*(x + sign * step * p for x, p in zip(given, push, strict=True))) for sign in (1, -1)
    ]
    torch.testing.assert_close(along, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


@EVERY_CORE
def test_jacobians_by_torch_func_agree(scheme):
    y0, controls = scheme.case.y0(1), scheme.case.controls(2)

    def final(y0, checked):
        return scheme.run(y0, controls, H, checked=checked)

    backward = jacrev(lambda y: final(y, True))(y0)
    torch.testing.assert_close(backward, jacfwd(lambda y: final(y, False))(y0))
    many = scheme.case.y0(4, seed=3)
    one_by_one = vmap(lambda y: final(y[None], False)[0])(many)
    torch.testing.assert_close(one_by_one, scheme.run(many, controls, H))


@pytest.mark.parametrize("method", ["euler", "rk4", "midpoint"])
def test_automatic_damping_passes_through_torch_func(method):
    """Also in the controls, whose spectrum the damping reads."""
    field = kn.AntisymmetricField(kn.DenseKernel(3), damping="auto")
    y0, weight = randn(2, 3), randn(2, 3, 3)

    def final(weight, checked=True):
        return kn.propagate(
            METHODS[method].integrator, field, y0, {"weight": weight}, H, checked=checked
        )

    expected = torch.autograd.functional.jacobian(final, weight)
    torch.testing.assert_close(jacrev(final)(weight), expected)
    torch.testing.assert_close(jacfwd(lambda w: final(w, False))(weight), expected)
    _, along = jvp(final, (weight,), (torch.ones_like(weight),))
    torch.testing.assert_close(along, expected.sum((-1, -2, -3)))


def test_a_control_may_be_called_functionally():
    """The parameters of a Control swapped from outside, as Gauss–Newton does."""
    case = FIELDS["hamiltonian"]
    control = kn.Control(case.controls(2))

    class Held(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.control = control

        def forward(self, y0):
            return kn.propagate(kn.Verlet(), case.field, y0, self.control.at_layers(5), H)

    other = kn.Control(case.controls(2, seed=4))
    swapped = {f"control.{name}": value for name, value in other.named_parameters()}
    got = functional_call(Held(), swapped, (case.y0(),))
    expected = kn.propagate(kn.Verlet(), case.field, case.y0(), other.at_layers(5), H)
    torch.testing.assert_close(got, expected)


@given(st.integers(1, 12), st.integers(1, 12))
def test_twice_the_layers_are_two_runs(first, second):
    """Only for one-step methods, whose state is the features themselves."""
    for name in ("euler on single", "rk4 on hamiltonian 3x5", "verlet on double"):
        scheme = SCHEMES[name]
        y0, controls = scheme.case.y0(), scheme.case.controls(first + second)
        halfway = scheme.run(y0, {n: v[:first] for n, v in controls.items()}, H)
        end = scheme.run(halfway, {n: v[first:] for n, v in controls.items()}, H)
        assert torch.equal(end, scheme.run(y0, controls, H))


def test_depth_may_be_repeated():
    scheme = SCHEMES["euler on single"]
    y0, controls = scheme.case.y0(), scheme.case.controls(3)
    assert torch.equal(scheme.run(y0, controls, H, depth=3), scheme.run(y0, controls, H))


# What is refused. Each row: what to change in a call that works, and words of the message.

DENSE = kn.SingleField(kn.DenseKernel(3))
CONV = kn.HamiltonianField(kn.ConvKernel(2, 2, out_channels=3))
WEIGHT, BIAS = randn(4, 3, 3), randn(4, 3)
NAN = torch.full((2, 3), math.nan).double()
CONTROL = kn.Control({"weight": WEIGHT})
REFUSED = {
    "too many channels": ({"y0": randn(2, 4)}, "a dense state must be (batch, 3), features in rows; got (2, 4)"),
    "a number": ({"y0": torch.tensor(1.0).double()}, "got ()"),
    "NaN in y0": ({"y0": NAN}, "y0 must be finite, but it holds NaN or inf"),
    "inf in y0": ({"y0": randn(2, 3).log().abs() / 0}, "y0 must be finite"),
    "integers": ({"y0": torch.ones(2, 3, dtype=torch.int64)}, "floating-point numbers, got a torch.int64 tensor"),
    "booleans": ({"y0": torch.ones(2, 3, dtype=torch.bool)}, "got a torch.bool tensor"),
    "complex": ({"y0": randn(2, 3) * 1j}, "got a torch.complex128 tensor"),
    "a list": ({"y0": [[1.0, 2.0, 3.0]]}, "got list"),
    "another dtype": ({"y0": randn(2, 3).float()}, "weight has dtype torch.float64, y0 has torch.float32"),
    "another dtype, of no numbers": (
        {"y0": randn(2, 3).float().to("meta"), "controls": {"weight": WEIGHT.to("meta")}},
        "weight has dtype torch.float64, y0 has torch.float32",
    ),
    "integer controls": ({"controls": {"weight": WEIGHT.long()}}, "weight has dtype torch.int64"),
    "another device": ({"controls": {"weight": WEIGHT.to("meta")}}, "weight is on meta, y0 on cpu"),
    "weight of one layer": ({"controls": {"weight": WEIGHT[0]}}, "weight must have shape (N, 3, 3), got (3, 3)"),
    "wide weight": ({"controls": {"weight": randn(4, 3, 5)}}, "weight must have shape (N, 3, 3), got (4, 3, 5)"),
    "long bias": ({"controls": {"weight": WEIGHT, "bias": randn(4, 5)}}, "bias must have shape (N, 3) or (N,), got (4, 5)"),
    "bias of no layer": ({"controls": {"weight": WEIGHT, "bias": torch.tensor(1.0).double()}}, "got ()"),
    "depths disagree": ({"controls": {"weight": WEIGHT, "bias": BIAS[:3]}}, "got {'weight': 4, 'bias': 3}"),
    "depth disagrees": ({"depth": 5}, "got {'weight': 4, 'depth': 5}"),
    "depth of zero": ({"depth": 0}, "depth must be an integer of at least 1, got 0"),
    "depth of a float": ({"depth": 4.0}, "depth must be an integer of at least 1, got 4.0"),
    "no layers": ({"controls": {"weight": WEIGHT[:0]}}, "the number of layers N must be an integer of at least 1, got 0"),
    "unknown name": ({"controls": {"weight": WEIGHT, "wieght": WEIGHT}}, "SingleField takes the controls weight, bias; unknown: wieght"),
    "missing name": ({"controls": {"bias": BIAS}}, "missing: weight"),
    "no controls": ({"controls": {}}, "missing: weight"),
    "absent as None": ({"controls": {"weight": WEIGHT, "bias": None}}, "bias must be a tensor, layers first, got NoneType; leave out"),
    "controls of lists": ({"controls": {"weight": WEIGHT.tolist()}}, "weight must be a tensor, layers first, got list"),
    "controls of arrays": ({"controls": {"weight": WEIGHT.numpy()}}, "weight must be a tensor, layers first, got ndarray"),
    "a control itself": ({"controls": CONTROL}, "(of a Control: control.at_layers(depth)), got Control"),
    "a tensor of controls": ({"controls": WEIGHT}, "got Tensor"),
    "step of zero": ({"step_size": 0.0}, "step_size must be a finite number above 0, got 0.0"),
    "step backwards": ({"step_size": -0.1}, "got -0.1"),
    "step of NaN": ({"step_size": math.nan}, "got nan"),
    "step of inf": ({"step_size": math.inf}, "got inf"),
    "step of words": ({"step_size": "0.1"}, "got '0.1'"),
    "step of truth": ({"step_size": True}, "got True"),
    "step of a tensor": ({"step_size": torch.tensor(0.1)}, "got tensor(0.1000)"),
    "a class of integrators": ({"integrator": kn.Euler}, "integrator must be a value like kn.Verlet(), got <class"),
    "an integrator by name": ({"integrator": "euler"}, "got 'euler'"),
    "a kernel as field": ({"field": kn.DenseKernel(3)}, "field must be a value like kn.HamiltonianField(…), got DenseKernel"),
    "a strategy by name": ({"strategy": "reversible"}, "kn.store_all, kn.checkpointed or kn.reversible, got 'reversible'"),
    "Euler reversed": ({"strategy": kn.reversible}, "Euler() is not a sequence of shears, so a layer cannot be undone from its result; use strategy=kn.checkpointed"),
    "Verlet on one part": ({"integrator": kn.Verlet()}, "SingleField has one part, but a partitioned method moves two; use"),
    "few channels of a grid": ({"field": CONV, "y0": randn(2, 4, 5, 5)}, "needs a state (batch, 2, height, width); got (2, 4, 5, 5), or 5 channels for y and z together"),
    "another grid": ({"field": CONV, "y0": randn(2, 2, 5)}, "a 2-D convolution needs a state (batch, 2, height, width); got (2, 2, 5)"),
    "rectangular bias": (
        {"field": kn.HamiltonianField(kn.DenseKernel(3, 5)), "controls": {"weight": randn(4, 3, 5), "bias": BIAS}},
        "bias must have shape (N,), got (4, 3)",
    ),
}  # fmt: skip


def called(changes: dict, function=kn.propagate):
    settings = {
        "integrator": kn.Euler(),
        "field": DENSE,
        "y0": randn(2, 3),
        "controls": {"weight": WEIGHT},
        "step_size": H,
    } | changes
    if changes.get("field") is CONV:
        settings["controls"] = {"weight": randn(4, 3, 2, 3, 3)}
    return function(**settings)


def test_the_call_that_is_changed_works():
    assert called({}).shape == (2, 3)
    assert called({"field": CONV, "y0": randn(2, 2, 5, 5)}).shape == (2, 2, 5, 5)


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_with_what_was_wanted_and_what_came(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        called(changes)
    if "strategy" not in changes:
        with pytest.raises(ValueError, match=re.escape(message)):
            called(changes, kn.trajectory)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_names_its_controls_where_one_is_unknown_or_missing(name):
    case = FIELDS[name]
    slots = case.field.theta_shapes()
    listed = re.escape(", ".join(slots))
    controls = case.controls(2)
    with pytest.raises(ValueError, match=f"takes the controls {listed}; unknown: other"):
        kn.propagate(kn.RK4(), case.field, case.y0(), controls | {"other": randn(2)}, H)
    for missing in (each for each, slot in slots.items() if not slot.optional):
        rest = {each: value for each, value in controls.items() if each != missing}
        with pytest.raises(ValueError, match=f"takes the controls {listed}; missing: {missing}"):
            kn.propagate(kn.RK4(), case.field, case.y0(), rest, H)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_refuses_controls_of_another_shape_by_name(name):
    case = FIELDS[name]
    for each, value in case.controls(2).items():
        wrong = case.controls(2) | {each: torch.cat((value, value), -1)[..., None]}
        with pytest.raises(ValueError, match=re.escape(f"{each} must have shape ")):
            kn.propagate(kn.RK4(), case.field, case.y0(), wrong, H)


@pytest.mark.parametrize("name", [n for n in FIELDS if "module" not in n])
def test_every_field_refuses_states_of_another_shape(name):
    case = FIELDS[name]
    y0 = case.y0()
    for wrong in (
        y0[:, :-1] if case.channels > 2 else y0[:, :0],
        y0[0, 0, ...],
        torch.cat((y0, y0, y0), 1),
    ):
        if (
            wrong.ndim
            and wrong.shape[-1:] == y0.shape[-1:]
            and wrong.ndim == y0.ndim
            and wrong.shape[1] == getattr(case.field, "widths", (0,))[0]
        ):
            continue
        with pytest.raises(ValueError, match=re.escape(f"got {tuple(wrong.shape)}")):
            kn.propagate(kn.RK4(), case.field, wrong, case.controls(2), H)


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_shared_parameters_are_counted_by_depth_alone(strategy):
    field = kn.ModuleField(branch(2))
    y = kn.propagate(kn.Verlet(), field, randn(2, 4), {}, H, strategy=strategy, depth=7)
    states = kn.trajectory(kn.Verlet(), field, randn(2, 4), {}, H, depth=7)
    assert len(states) == 8
    assert torch.equal(y, torch.cat(states[-1], 1))


STEPS = {
    "RK4": (kn.RK4(), kn.SingleField(kn.DenseKernel(3)), (5, 3)),
    "Euler": (kn.Euler(), kn.SingleField(kn.DenseKernel(3)), (5, 3)),
    "conv": (kn.Euler(), kn.SymmetricField(kn.ConvKernel(8, dim=2)), (1, 8, 32, 32)),
}


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.longdouble, Fraction])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_size_of_any_real_type_is_the_float_that_it_is(name, kind):
    method, field, shape = STEPS[name]
    y0 = randn(*shape)
    control = kn.Control.random(field, 3, torch.Generator().manual_seed(1)).double()
    found = []
    for h in (kind(0.125), 0.125):
        control.zero_grad()
        y = kn.propagate(method, field, y0, control.at_layers(3), h)
        y.square().sum().backward()
        found.append((y.detach(), control.values()["weight"].grad.clone()))
        assert kn.engine_of(method, field, y0, control.at_layers(3), h).name
        path = kn.trajectory(method, field, y0, control.at_layers(3), h)
        torch.testing.assert_close(path[-1][0], y)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class Spectral(torch.nn.Module):
    """A branch with complex weights, one for each frequency (Li et al. 2021)."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(2, 2, 4, dtype=torch.complex128, generator=generator) / 4)  # fmt: skip

    def forward(self, y):
        waves = torch.einsum("bim,iom->bom", torch.fft.rfft(y), self.weight)
        return torch.tanh(torch.fft.irfft(waves, n=y.shape[-1]))


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed, kn.reversible])
def test_a_branch_may_have_complex_weights(strategy):
    branches, y0 = [Spectral(seed) for seed in range(3)], randn(3, 2, 6)
    controls = kn.ModuleField.stacked(branches)
    field = kn.ModuleField(branches[0], channels=2)
    found = kn.propagate(kn.Verlet(), field, y0, controls, step_size=0.5, strategy=strategy)
    y, z = y0, torch.zeros_like(y0)
    for branch_ in branches:
        z = z - 0.5 * branch_(y)
        y = y + 0.5 * branch_(z)
    torch.testing.assert_close(found, y)
    with pytest.raises(ValueError, match="weight has dtype torch.complex64"):
        narrow = {name: value.to(torch.complex64) for name, value in controls.items()}
        kn.propagate(kn.Verlet(), field, y0, narrow, step_size=0.5)
