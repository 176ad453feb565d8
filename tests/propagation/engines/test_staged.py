"""Laws of the staged engine alone: what it reads, what it declines, and why. `test_engines` has those of all."""

from __future__ import annotations

import pytest
import torch
from problems import FIELDS, SCHEMES, leaves_of, randn

import keelnet as kn

H = 0.1
IN_STAGES = {
    key: scheme
    for key, scheme in SCHEMES.items()
    if key.startswith("rk4") or (key.startswith("euler") and scheme.case.two_parts)
}


def choice(scheme, *, batch: int = 2):
    y0, controls = scheme.case.y0(batch), scheme.case.controls(2)
    return kn.engine_of(scheme.integrator, scheme.field, y0, controls, H)


TAKEN = [key for key, scheme in IN_STAGES.items() if choice(scheme).name == "staged"]


def both(call):
    """What the call gives under this engine and under the plain loop, without a graph."""
    found = []
    for name in ("staged", "reference"):
        with kn.engine(name), torch.no_grad():
            found.append(call())
    return found


def test_dense_fields_without_norms_are_taken_and_all_others_named():
    reasons = {
        key: choice(scheme).refused["staged"]
        for key, scheme in IN_STAGES.items()
        if key not in TAKEN and "module" not in key
    }
    for key, scheme in IN_STAGES.items():
        convolves, normed = bool(scheme.case.space), "normed" in key
        assert (key in TAKEN) == (not convolves and not normed and "module" not in key), key
        if "module" in key:
            assert "moves or stages" in str(choice(scheme)), key
        elif key not in TAKEN:
            assert reasons[key] == (
                "the kernel is a convolution" if convolves else "it fuses no norm"
            )
    assert len(TAKEN) > 10


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity", "leaky_relu", "sigmoid", "elu"])
@pytest.mark.parametrize("key", TAKEN)
def test_every_activation_that_it_knows_bends_as_in_the_reference(key, activation):
    scheme = IN_STAGES[key]
    field = scheme.case.activated(activation).field
    found = []
    for name in ("staged", "reference"):
        y0, controls = leaves_of(scheme, 4)
        with kn.engine(name):
            value = kn.propagate(scheme.integrator, field, y0, controls, H)
        cost = (value * randn(*value.shape, seed=5)).sum()
        found.append([value, *torch.autograd.grad(cost, [y0, *controls.values()])])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_an_activation_whose_slope_needs_its_argument_is_taken_where_nothing_closes_it():
    field = kn.SingleField(kn.DenseKernel(3), "silu")
    found = []
    for name in ("staged", "reference"):
        y0, weight = randn(5, 3).requires_grad_(), randn(4, 3, 3, seed=1).requires_grad_()
        with kn.engine(name):
            value = kn.propagate(kn.RK4(), field, y0, {"weight": weight}, H)
        found.append([value, *torch.autograd.grad(value.square().sum(), [y0, weight])])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    closed = kn.SymmetricField(kn.DenseKernel(3), "silu")
    choice = kn.engine_of(kn.RK4(), closed, y0, {"weight": weight}, H)
    assert "slope of silu" in choice.refused["staged"]


@pytest.mark.parametrize("method", [kn.RK4(), kn.Euler()], ids=str)
def test_any_controls_and_any_memory_are_read_as_they_are(method):
    """Absent and shared biases, a kernel that is one in all layers, turned and strided tensors, y0 without z."""
    field = kn.HamiltonianField(kn.DenseKernel(3))
    wide = randn(10, 12, seed=1)
    weights = (
        randn(1, 3, 3, seed=2).expand(4, 3, 3),
        randn(4, 3, 3, seed=3).mT,
        randn(8, 3, 3)[::2],
    )
    biases = (None, randn(4), randn(4, 1).expand(4, 3), randn(1).expand(4), randn(8, 3)[::2])
    for y0 in (wide[::2, ::4], wide[:, 2:8], wide.T[:3].T, randn(2, 5, 3), randn(3)[None]):
        for weight in weights:
            for bias in biases:
                controls = {"weight": weight} | ({} if bias is None else {"bias": bias})
                found, wanted = both(
                    lambda y0=y0, given=controls: kn.propagate(method, field, y0, given, H)
                )
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_every_layer_of_a_stage_sees_its_own_controls():
    """θ is that of the layer in all four stages: swapping two layers must not go unseen."""
    scheme = IN_STAGES["rk4 on hamiltonian"]
    y0, controls = scheme.case.y0(5), scheme.case.controls(2, gain=3.0)
    turned = {name: value.flip(0) for name, value in controls.items()}
    found, wanted = both(lambda: scheme.run(y0, turned, H))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert float((found - scheme.run(y0, controls, H)).norm()) > 1e-3


def test_what_it_declines_goes_to_another_with_the_reason():
    case = FIELDS["single"]
    y0, controls = case.y0(5), case.controls(3)
    wide = kn.SingleField(kn.DenseKernel(300))
    normal = kn.SingleField(kn.DenseKernel(3), "softplus")
    weight = {"weight": randn(2, 300, 300)}
    asked = {
        "channels": (kn.RK4(), wide, randn(5, 300), weight),
        "softplus": (kn.RK4(), normal, y0, controls),
        "no samples": (kn.RK4(), case.field, y0[:0], controls),
        "a sequence of moves": (kn.Euler(), case.field, y0, controls),
    }
    for reason, call in asked.items():
        found = kn.engine_of(*call, H)
        assert found.name != "staged"
        if found.name == "reference":
            assert reason in str(found)
        with kn.engine("staged"), pytest.raises(ValueError, match=reason):
            kn.propagate(*call, H)
    deep = {name: value[:1].expand(40_000, *value.shape[1:]) for name, value in controls.items()}
    leaf = y0.clone().requires_grad_()
    found = kn.engine_of(kn.RK4(), case.field, leaf, deep, H)
    assert found.name == "reference" and "memory" in found.refused["staged"]
    with torch.no_grad():  # nothing is kept for a gradient
        assert kn.engine_of(kn.RK4(), case.field, leaf, deep, H).name == "staged"
    with kn.engine("reference"):
        assert kn.engine_of(kn.RK4(), case.field, y0, controls, H).name == "reference"


def test_numbers_that_are_not_finite_are_found():
    field = kn.SingleField(kn.DenseKernel(2), "relu")
    weight = torch.full((400, 2, 2), 9.0)
    for call in (kn.propagate, kn.trajectory):
        with kn.engine("staged"), pytest.raises(ValueError, match="not finite after layer"):
            call(kn.RK4(), field, torch.ones(3, 2), {"weight": weight}, 1.0)
