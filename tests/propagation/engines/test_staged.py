"""Laws of the staged engine: values and paths are those of the plain loop; what it declines is named."""

from __future__ import annotations

import pytest
import torch
from problems import FIELDS, SCHEMES, randn

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
EVERY = pytest.mark.parametrize("key", TAKEN)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("batch", [1, 16, 17, 65, 200])
@EVERY
def test_values_are_those_of_the_reference(key, batch, dtype):
    scheme = IN_STAGES[key]
    y0, controls = scheme.case.y0(batch, dtype=dtype), scheme.case.controls(6, dtype=dtype)
    found, wanted = both(lambda: scheme.run(y0, controls, H))
    assert found.dtype == dtype and found.shape == wanted.shape
    bound = 1e-13 if dtype == torch.float64 else 1e-5
    assert float((found - wanted).norm()) <= bound * float(wanted.norm())


@EVERY
def test_paths_are_those_of_the_reference_at_every_layer_and_at_chosen_ones(key):
    scheme = IN_STAGES[key]
    call = scheme.integrator, scheme.field, scheme.case.y0(37), scheme.case.controls(6), H
    found, wanted = both(lambda: kn.trajectory(*call))
    some, _ = both(lambda: kn.trajectory(*call, layers=[0, 2, 6]))
    for states in ((found, wanted), (some, [wanted[0], wanted[2], wanted[6]])):
        for one, other in zip(*states, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity", "leaky_relu", "sigmoid", "elu"])
@EVERY
def test_every_activation_that_it_knows_bends_as_in_the_reference(key, activation):
    scheme = IN_STAGES[key]
    field = scheme.case.activated(activation).field
    call = scheme.integrator, field, scheme.case.y0(9), scheme.case.controls(4), H
    torch.testing.assert_close(*both(lambda: kn.propagate(*call)), rtol=1e-12, atol=1e-12)


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
        "gradient": (kn.RK4(), case.field, y0.clone().requires_grad_(), controls),
        "channels": (kn.RK4(), wide, randn(5, 300), weight),
        "softplus": (kn.RK4(), normal, y0, controls),
        "no samples": (kn.RK4(), case.field, y0[:0], controls),
        "a sequence of moves": (kn.Euler(), case.field, y0, controls),
    }
    for reason, call in asked.items():
        found = kn.engine_of(*call, H)
        assert found.name != "staged"
        if found.name == "reference":
            assert reason in found.refused["staged"]
        with kn.engine("staged"), pytest.raises(ValueError, match=reason):
            kn.propagate(*call, H)
    with kn.engine("reference"):
        assert kn.engine_of(kn.RK4(), case.field, y0, controls, H).name == "reference"


def test_numbers_that_are_not_finite_are_found():
    field = kn.SingleField(kn.DenseKernel(2), "relu")
    weight = torch.full((400, 2, 2), 9.0)
    for call in (kn.propagate, kn.trajectory):
        with kn.engine("staged"), pytest.raises(ValueError, match="not finite after layer"):
            call(kn.RK4(), field, torch.ones(3, 2), {"weight": weight}, 1.0)
