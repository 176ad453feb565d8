"""Laws of step bounds and damping: what is promised stable is, what is not grows, and the words say which."""

import math
import re
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import FIELDS, METHODS, Scheme, branch, constant, randn

import keelnet as kn
from keelnet.propagation.bounds import damped

EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
UNSTABLE = pytest.mark.filterwarnings("ignore::keelnet.propagation.integrators.StabilityWarning")
SKEW = kn.AntisymmetricField
SIZES = st.floats(1e-3, 1e3)
ANGLES = st.floats(-math.pi, math.pi)


def eigenvalues() -> st.SearchStrategy[complex]:
    """On the axes, where the classical bounds lie, and off them."""
    generic = st.builds(
        lambda size, angle: size * complex(math.cos(angle), math.sin(angle)), SIZES, ANGLES
    )
    axes = st.builds(lambda size, unit: size * unit, SIZES, st.sampled_from((1, -1, 1j, -1j)))
    return axes | generic


@pytest.mark.parametrize("name", METHODS)
@given(eigenvalue=eigenvalues())
def test_growth_starts_at_the_largest_step(name, eigenvalue):
    method = METHODS[name].integrator
    values = np.array([eigenvalue])
    step = float(method.largest_steps(values)[0])

    def growth(h: float) -> float:
        return float(method.amplification(h, values)[0])

    if step == 0:
        tangent = abs(eigenvalue.real) < 1e-6 * abs(eigenvalue) or name in ("leapfrog", "verlet")
        assume(not tangent or abs(eigenvalue.imag) > 1e-3 * abs(eigenvalue))
        assert growth(0.1 / abs(eigenvalue)) > 1
    else:
        assert math.isfinite(step)
        for share in (0.01, 0.3, 0.6, 0.9, 0.999):
            assert growth(share * step) <= 1 + 1e-9
        assert growth(1.001 * step) > 1


@EVERY_METHOD
def test_many_eigenvalues_at_once_have_the_steps_of_each_alone(method):
    values = np.array([[1j, -0.3 + 2j], [-1.0, 0.2j], [0.0, 1.0], [-2 + 0.1j, 3.0]])
    each = [[method.integrator.largest_steps(np.array([x]))[0] for x in row] for row in values]
    assert method.integrator.largest_steps(values).tolist() == each


@EVERY_METHOD
def test_what_does_not_move_is_stable_at_every_step(method):
    still = np.zeros(2, complex)
    assert method.integrator.largest_steps(still).tolist() == [math.inf] * 2
    assert method.integrator.amplification(3.0, still).tolist() == [1.0] * 2


GAMMA = 0.4


def sigma(weights: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(weights, 2)


def omega(weights: torch.Tensor) -> torch.Tensor:
    return sigma(weights - weights.mT) / 2


KERNEL, WIDE = kn.DenseKernel(3), kn.DenseKernel(3, 5)
CLOSED_FORMS = {
    "Verlet, one kernel: 2 / σ": (
        kn.Verlet(),
        kn.HamiltonianField(WIDE),
        lambda c: 2 / sigma(c["weight"]),
    ),
    "Verlet half, one kernel: 2 / σ": (
        kn.Verlet("half"),
        kn.HamiltonianField(WIDE),
        lambda c: 2 / sigma(c["weight"]),
    ),
    "Verlet, two kernels: 2 / (‖K₁‖ ‖K₂‖)": (
        kn.Verlet(),
        kn.DoubleHamiltonianField(KERNEL, WIDE),
        lambda c: 2 / (sigma(c["weight_1"]) * sigma(c["weight_2"])),
    ),
    "Leapfrog, symmetric: 2 / ‖K‖": (
        kn.Leapfrog(),
        kn.SymmetricField(WIDE),
        lambda c: 2 / sigma(c["weight"]),
    ),
    "Euler, symmetric: 2 / ‖K‖²": (
        kn.Euler(),
        kn.SymmetricField(WIDE),
        lambda c: 2 / sigma(c["weight"]) ** 2,
    ),
    "IMEX, symmetric: 2 / ‖K‖²": (
        kn.IMEX(kn.DenseDiffusion(torch.eye(3))),
        kn.SymmetricField(WIDE),
        lambda c: 2 / sigma(c["weight"]) ** 2,
    ),
    "Midpoint, antisymmetric: 1 / ω": (
        kn.Midpoint(),
        SKEW(KERNEL),
        lambda c: 1 / omega(c["weight"]),
    ),
    "Euler, damped: γ / (ω² + γ²/4)": (
        kn.Euler(),
        SKEW(KERNEL, damping=GAMMA),
        lambda c: GAMMA / (omega(c["weight"]) ** 2 + GAMMA**2 / 4),
    ),
    "RK4, antisymmetric: 2 √2 / ω": (
        kn.RK4(),
        SKEW(KERNEL),
        lambda c: math.sqrt(8) / omega(c["weight"]),
    ),
    "Euler, sigmoid: 2 / (‖K‖² / 4)": (
        kn.Euler(),
        kn.SymmetricField(WIDE, "sigmoid"),
        lambda c: 8 / sigma(c["weight"]) ** 2,
    ),
    "Euler, undamped: none": (kn.Euler(), SKEW(KERNEL), lambda c: torch.zeros(len(c["weight"]))),
    "Midpoint, damped: none": (
        kn.Midpoint(),
        SKEW(KERNEL, damping=GAMMA),
        lambda c: torch.zeros(len(c["weight"])),
    ),
    "Leapfrog, antisymmetric: none": (
        kn.Leapfrog(),
        SKEW(KERNEL),
        lambda c: torch.zeros(len(c["weight"])),
    ),
}


def drawn(field, depth: int, gain: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        name: gain * randn(depth, *slot.shape, seed=number)
        for number, (name, slot) in enumerate(field.theta_shapes().items())
        if slot.kernel is not None
    }


@pytest.mark.parametrize(("method", "field", "closed"), CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_bounds_are_the_closed_forms_of_the_strictest_layer(method, field, closed):
    controls = drawn(field, 6)
    found, expected = kn.step_bound(method, field, controls), closed(controls)
    assert found.step_size == pytest.approx(float(expected.min()), rel=1e-9)
    if found.step_size:
        assert found.layer == int(expected.argmin())


# Linear fields on which the bound is sharp: normal matrices, or one kernel on both sides.
SHARP = {
    "verlet": (kn.Verlet(), kn.HamiltonianField(WIDE, "identity")),
    "verlet half": (kn.Verlet("half"), kn.HamiltonianField(WIDE, "identity")),
    "verlet, two kernels": (kn.Verlet(), kn.DoubleHamiltonianField(WIDE, WIDE, "identity")),
    "leapfrog": (kn.Leapfrog(), kn.SymmetricField(WIDE, "identity")),
    "leapfrog half": (kn.Leapfrog("half"), kn.SymmetricField(WIDE, "identity")),
    "euler, symmetric": (kn.Euler(), kn.SymmetricField(WIDE, "identity")),
    "euler, damped": (kn.Euler(), SKEW(KERNEL, "identity", 2.0)),
    "midpoint": (kn.Midpoint(), SKEW(KERNEL, "identity")),
    "rk4, skew": (kn.RK4(), SKEW(KERNEL, "identity")),
    "rk4, damped": (kn.RK4(), SKEW(KERNEL, "identity", 2.0)),
    "rk4, symmetric": (kn.RK4(), kn.SymmetricField(WIDE, "identity")),
    "imex": (
        kn.IMEX(kn.DenseDiffusion(torch.zeros(3, 3).double())),
        kn.SymmetricField(WIDE, "identity"),
    ),
}


@pytest.mark.parametrize(("method", "field"), SHARP.values(), ids=SHARP)
def test_a_linear_run_is_bounded_below_the_bound_and_grows_by_the_promised_factor_above(
    method, field
):
    layer = drawn(field, 1)
    if "weight_2" in layer:
        layer["weight_2"] = layer["weight_1"]
    bound = kn.step_bound(method, field, layer).step_size
    theta = {name: value[0] for name, value in layer.items()}
    y0 = randn(4, 3)

    def size(h: float, depth: int) -> float:
        return float(
            kn.propagate(method, field, y0, constant(theta, depth), h, checked=False).norm()
        )

    # Near the bound an oscillation may still reach 1 / sin of its angle times its start.
    assert max(size(0.98 * bound, depth) for depth in (100, 200, 400)) < 20 * float(y0.norm())
    spectrum = method.adapted(field).spectrum(layer)[0].to(torch.complex128).numpy()
    promised = float(method.amplification(1.05 * bound, spectrum).max())
    assert promised > 1.01
    depth = math.ceil(30 / math.log(promised))
    seen = (size(1.05 * bound, 2 * depth) / size(1.05 * bound, depth)) ** (1 / depth)
    assert seen == pytest.approx(promised, rel=1e-3)


@pytest.mark.parametrize("name", ["hamiltonian conv1 2x3", "hamiltonian conv2", "double conv3"])
def test_the_bound_of_convolutions_is_safe(name):
    """It is that of the whole lattice, so any grid is on its safe side."""
    case = FIELDS[name].activated("identity")
    theta = {n: v for n, v in case.theta(gain=1.0).items() if n.startswith("weight")}
    h = kn.step_bound(kn.Verlet(), case.field, constant(theta, 1)).step_size
    y0 = case.y0()
    sizes = [
        float(kn.propagate(kn.Verlet(), case.field, y0, constant(theta, n), 0.99 * h).norm())
        for n in (50, 100, 200, 400)
    ]
    assert max(sizes) < 50 * float(y0.norm())


def test_a_field_without_a_spectrum_has_no_bound():
    assert kn.step_bound(kn.Euler(), kn.ModuleField(branch(3)), {}) is None


def test_the_bound_of_automatic_damping_is_that_of_no_damping():
    controls = drawn(SKEW(KERNEL), 3)
    automatic, none = SKEW(KERNEL, damping="auto"), SKEW(KERNEL)
    assert kn.step_bound(kn.RK4(), automatic, controls) == kn.step_bound(kn.RK4(), none, controls)
    assert kn.step_bound(kn.Euler(), automatic, controls).step_size == 0


@pytest.mark.parametrize(
    ("field", "known"),
    [
        (kn.SymmetricField(WIDE), True),
        (kn.SymmetricField(WIDE, "sin"), False),
        (SKEW(KERNEL, "identity", 0.4), True),
        (SKEW(KERNEL, "identity"), False),  # 0 is the bound of the explicit half: L may hold some h
        (SKEW(KERNEL, "tanh", 0.4), False),
        (kn.SingleField(KERNEL, "identity"), False),
    ],
    ids=["symmetric", "falling f", "damped", "undamped", "another f", "single"],
)
def test_imex_has_a_bound_where_no_diffusion_can_make_a_layer_grow(field, known):
    controls = drawn(field, 4)
    root = randn(3, 3, seed=5)
    method = kn.IMEX(kn.DenseDiffusion(10 * root @ root.T))
    bound = kn.step_bound(method, field, controls)
    assert (bound is not None) == known
    if bound is not None:
        h, eye = bound.step_size, torch.eye(3, dtype=torch.float64)
        for layer in range(4):
            theta = {name: value[layer] for name, value in controls.items()}
            slope = torch.func.jacrev(lambda y, theta=theta: field.rate(y, theta))(eye[:1])[0, :, 0]
            step = torch.linalg.solve(eye + h * method.diffusion.matrix, eye + h * slope)
            assert float(torch.linalg.matrix_norm(step, 2)) <= 1 + 1e-9


@pytest.mark.filterwarnings("error")
def test_no_damping_is_said_to_be_too_small_for_a_diffusion():
    controls, method = drawn(SKEW(KERNEL), 4), kn.IMEX(kn.DenseDiffusion(10 * torch.eye(3)))
    damped(method, SKEW(KERNEL, "identity"), controls, 0.1, advise=True)


# Damping.


def resolved(method, controls: dict, h: float, kernel=KERNEL) -> torch.Tensor:
    field = damped(method, SKEW(kernel, "tanh", "auto"), controls, h, True)
    return torch.as_tensor(field.damping)


@given(st.floats(1e-4, 0.999), st.floats(1e-3, 10))
def test_automatic_damping_under_euler_solves_its_equation_with_the_smaller_root(share, h):
    """γ (1 − h γ / 4) = h ω², for ω up to 1 / h."""
    omega = torch.tensor([0.1, 1.0], dtype=torch.float64) * share / h
    gamma = float(kn.Euler().least_damping(h, omega))
    assert gamma * (1 - h * gamma / 4) == pytest.approx(h * float(omega[1]) ** 2, rel=1e-9)
    assert 0 < gamma <= 2 / h

    def growth(damping: float) -> float:
        values = np.array([-damping / 2 + 1j * float(omega[1])])
        return float(kn.Euler().amplification(h, values)[0])

    assert growth(gamma) == pytest.approx(1, abs=1e-12)
    assert growth(0.9 * gamma) > 1


@pytest.mark.parametrize(
    "name", ["antisymmetric", "antisymmetric conv1", "antisymmetric depthwise"]
)
def test_automatic_damping_holds_a_linear_run_for_a_thousand_layers(name):
    """The matrix is normal: no norm grows in any layer, and with a little less damping one does."""
    case, h = FIELDS[name], 0.1
    field = SKEW(case.field.kernel, "identity", "auto")
    weights = case.controls(1000)["weight"]
    y0 = case.y0()
    states = kn.trajectory(kn.Euler(), field, y0, {"weight": weights}, h)
    norms = torch.stack([y.flatten(1).norm(dim=1) for (y,) in states])
    assert bool((norms.diff(dim=0) <= 1e-12).all())
    assert bool((norms[-1] > 0).all())


def test_automatic_damping_is_the_least_that_holds():
    h, weight = 0.1, randn(1, 3, 3)
    gamma = float(resolved(kn.Euler(), {"weight": weight}, h))
    y0 = randn(2, 3)

    def size(damping: float) -> float:
        field = SKEW(KERNEL, "identity", damping)
        controls = {"weight": weight.expand(2000, 3, 3)}
        return float(kn.propagate(kn.Euler(), field, y0, controls, h, checked=False).norm())

    assert size(gamma) <= float(y0.norm())
    assert size(0.98 * gamma) > 1.5 * size(gamma)


@pytest.mark.parametrize("method", [kn.RK4(), kn.Midpoint()])
def test_no_damping_is_added_where_the_method_holds_rotation(method):
    controls = drawn(SKEW(KERNEL), 4)
    h = 0.9 * kn.step_bound(method, SKEW(KERNEL), controls).step_size
    assert float(resolved(method, controls, h)) == 0
    y0 = randn(2, 3)
    automatic, none = (
        kn.propagate(method, SKEW(KERNEL, "tanh", damping), y0, controls, h)
        for damping in ("auto", 0.0)
    )
    assert torch.equal(automatic, none)


@pytest.mark.parametrize("name", ["antisymmetric", "antisymmetric conv1"])
def test_the_gradient_of_automatic_damping_is_its_derivative(name):
    case = FIELDS[name]
    field = SKEW(case.field.kernel, "tanh", "auto")
    weight = case.controls(2)["weight"].requires_grad_()

    def final(y0: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return kn.propagate(kn.Euler(), field, y0, {"weight": weight}, 0.3)

    assert torch.autograd.gradcheck(final, (case.y0().requires_grad_(), weight))
    (through,) = torch.autograd.grad(final(case.y0(), weight).sum(), weight)
    gamma = float(resolved(kn.Euler(), {"weight": weight.detach()}, 0.3, field.kernel))
    frozen = kn.propagate(
        kn.Euler(), field.with_damping(gamma), case.y0(), {"weight": weight}, 0.3, checked=False
    )
    (without,) = torch.autograd.grad(frozen.sum(), weight)
    assert not torch.allclose(through, without)


@pytest.mark.parametrize("strategy", [kn.store_all, kn.checkpointed])
def test_automatic_damping_has_the_same_gradient_under_either_strategy(strategy):
    weight, y0 = randn(9, 3, 3).requires_grad_(), randn(2, 3)
    value = kn.propagate(
        kn.Euler(), SKEW(KERNEL, "tanh", "auto"), y0, {"weight": weight}, 0.1, strategy=strategy
    )
    (found,) = torch.autograd.grad(value.square().sum(), weight)
    value = kn.propagate(kn.Euler(), SKEW(KERNEL, "tanh", "auto"), y0, {"weight": weight}, 0.1)
    (expected,) = torch.autograd.grad(value.square().sum(), weight)
    torch.testing.assert_close(found, expected)


def test_zero_frequency_needs_no_damping_and_has_a_finite_gradient():
    weight = torch.eye(3).double().expand(2, 3, 3).clone().requires_grad_()
    assert float(resolved(kn.Euler(), {"weight": weight.detach()}, 0.1)) == 0
    value = kn.propagate(
        kn.Euler(), SKEW(KERNEL, "tanh", "auto"), randn(2, 3), {"weight": weight}, 0.1
    )
    (gradient,) = torch.autograd.grad(value.sum(), weight)
    assert bool(gradient.isfinite().all())


# Warnings.


def advised(method, damping: float, controls: dict, h: float) -> str:
    """The words of the one warning, the empty string where there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kn.propagate(method, SKEW(KERNEL, damping=damping), randn(2, 3), controls, h)
    words = [str(each.message) for each in caught if each.category is kn.StabilityWarning]
    assert len(words) <= 1
    return "".join(words)


@given(st.integers(0, 2**31 - 1), st.floats(0.01, 0.9))
def test_the_damping_that_a_warning_names_is_sufficient_and_hardly_more_than_the_least(seed, share):
    weight = randn(3, 3, 3, seed=seed)
    h = share / float(omega(weight).max())
    words = advised(kn.Euler(), 0.0, {"weight": weight}, h)
    named = float(re.search(r"; ([\d.e+-]+) would do", words).group(1))
    assert advised(kn.Euler(), named, {"weight": weight}, h) == ""
    least = float(resolved(kn.Euler(), {"weight": weight}, h))
    assert least * (1 - 1e-12) <= named <= least * 1.002
    assert f"ω = {float(omega(weight).max()):.4g}" in words
    assert 'or damping="auto"' in words
    assert advised(kn.Euler(), 0.9 * named, {"weight": weight}, h) != ""


def test_a_warning_names_the_growth_of_a_layer():
    weight = torch.tensor([[[0.0, 1, 0], [-1, 0, 0], [0, 0, 0]]], dtype=torch.float64)
    words = advised(kn.Euler(), 0.0, {"weight": weight}, 0.1)
    assert f"grows up to {math.sqrt(1.01):.7g} times a layer: damping 0 does not hold" in words


def test_midpoint_is_told_to_drop_its_damping():
    words = advised(kn.Midpoint(), 0.3, drawn(SKEW(KERNEL), 2), 0.1)
    assert "damping 0.3 does not hold" in words and "; 0 would do" in words


@pytest.mark.parametrize("damping", [0.3, "auto"])
def test_a_step_beyond_any_damping_is_said_to_be_so(damping):
    """h ω > 1: no γ holds explicit Euler."""
    controls = drawn(SKEW(KERNEL), 2)
    largest = float(omega(controls["weight"]).max())
    wanted = f"no damping keeps explicit Euler stable at step size .*h ≤ 1 / ω = {1 / largest:.4g}"
    with pytest.warns(kn.StabilityWarning, match=wanted):
        kn.propagate(
            kn.Euler(), SKEW(KERNEL, damping=damping), randn(2, 3), controls, 1.1 / largest
        )


@pytest.mark.parametrize("method", [kn.RK4(), kn.Midpoint(), kn.Leapfrog()])
def test_a_method_that_no_damping_saves_says_so(method):
    controls = drawn(SKEW(KERNEL), 2)
    with pytest.warns(kn.StabilityWarning, match="no damping was found .*raise depth"):
        kn.propagate(
            method,
            SKEW(KERNEL, damping="auto"),
            randn(2, 3),
            controls,
            4 / float(omega(controls["weight"]).max()),
        )


def test_an_unchecked_run_is_not_advised():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kn.propagate(
            kn.Euler(), SKEW(KERNEL), randn(2, 3), drawn(SKEW(KERNEL), 2), 0.1, checked=False
        )


@pytest.mark.parametrize("damping", [0.1, "auto"])
def test_damping_needs_finite_controls(damping):
    controls = drawn(SKEW(KERNEL), 3)
    controls["weight"][1, 0, 0] = math.nan
    with pytest.raises(
        ValueError, match="weight must be finite, but that of layer 2 of 3 holds NaN or inf"
    ):
        kn.propagate(kn.Euler(), SKEW(KERNEL, damping=damping), randn(2, 3), controls, 0.1)


# States that are not finite.

RUNAWAY = {
    "euler on single": Scheme(METHODS["euler"], FIELDS["single"].activated("relu")),
    "euler on symmetric": Scheme(METHODS["euler"], FIELDS["symmetric 3x5"].activated("identity")),
    "rk4 on single": Scheme(METHODS["rk4"], FIELDS["single"].activated("relu")),
    "verlet on hamiltonian": Scheme(
        METHODS["verlet"], FIELDS["hamiltonian 3x5"].activated("identity")
    ),
    "verlet on double conv1": Scheme(
        METHODS["verlet"], FIELDS["double conv1"].activated("identity")
    ),
    "leapfrog on symmetric": Scheme(METHODS["leapfrog"], FIELDS["symmetric"].activated("identity")),
    "midpoint on antisymmetric": Scheme(
        METHODS["midpoint"], FIELDS["antisymmetric"].activated("identity")
    ),
}


@UNSTABLE
@pytest.mark.parametrize(
    ("scheme", "strategy"),
    [
        pytest.param(scheme, strategy, id=f"{strategy.__name__}: {name}")
        for name, scheme in RUNAWAY.items()
        for strategy in (kn.store_all, kn.checkpointed, kn.reversible)
        if strategy is not kn.reversible or scheme.reversible
    ],
)
def test_the_first_layer_that_is_not_finite_is_named_with_the_bound_that_h_exceeds(
    scheme, strategy
):
    h, depth = 50.0, 60
    y0, controls = (
        scheme.case.y0(dtype=torch.float32),
        scheme.case.controls(depth, dtype=torch.float32),
    )
    state, first = scheme.state(y0), 0
    while all(bool(part.isfinite().all()) for part in state):
        theta = {name: value[first] for name, value in controls.items()}
        state = scheme.integrator.step(scheme.field, state, theta, h, first)
        first += 1
    assert 3 < first < depth
    for value in controls.values():
        value[first:] *= 1000  # layers that were never reached are not to blame
    with pytest.raises(ValueError, match=f"not finite after layer {first} of {depth}") as caught:
        scheme.run(y0, controls, h, strategy=strategy)
    passed = {name: value[:first] for name, value in controls.items()}
    bound = kn.step_bound(scheme.integrator, scheme.field, passed)
    if bound.step_size:
        assert f"it exceeds the step bound {bound.step_size:.4g}" in str(caught.value)
    else:
        assert "no step size is stable for" in str(caught.value)
    assert f"layer {bound.layer + 1}" in str(caught.value)
    with pytest.raises(ValueError, match=f"not finite after layer {first} of {depth}"):
        kn.trajectory(scheme.integrator, scheme.field, y0, controls, h)


def test_a_control_that_is_not_finite_is_named():
    case = FIELDS["hamiltonian"]
    controls = case.controls(5)
    controls["bias"][2, 1] = math.nan
    wanted = "bias must be finite, but that of layer 3 of 5 holds NaN or inf"
    with pytest.raises(ValueError, match=wanted):
        kn.propagate(kn.Verlet(), case.field, case.y0(), controls, 0.1)


def test_a_field_without_a_bound_is_explained_too():
    module = torch.nn.Linear(3, 3).double()
    with torch.no_grad():
        module.weight.fill_(1e200)
    wanted = "not finite after layer 2 of 4 .*Euler on ModuleField has no known step bound"
    with pytest.raises(ValueError, match=wanted):
        kn.propagate(
            kn.Euler(), kn.ModuleField(module), torch.ones(1, 3).double(), {}, 1.0, depth=4
        )


def test_an_unchecked_run_returns_what_came_out():
    case = FIELDS["hamiltonian"]
    controls = case.controls(3)
    controls["bias"][1] = math.nan
    y = kn.propagate(kn.Verlet(), case.field, case.y0(), controls, 0.1, checked=False)
    assert bool(y.isnan().all())


@pytest.mark.parametrize("kernel", [kn.DenseKernel(4), kn.ConvKernel(2, 1)], ids=str)
def test_automatic_damping_is_differentiated_at_the_layer_that_needs_it_most(kernel):
    weight = (0.3 * randn(5, *kernel.weight_shape)).requires_grad_()
    field, h = SKEW(kernel, "tanh", "auto"), 0.2

    def all_layers():
        return kn.Euler().least_damping(h, field.frequencies({"weight": weight}))

    gamma = damped(kn.Euler(), field, {"weight": weight}, h, True).damping
    wanted = all_layers()
    assert torch.allclose(gamma, wanted, rtol=1e-12)
    found = torch.autograd.grad(gamma, weight)[0]
    assert torch.allclose(found, torch.autograd.grad(wanted, weight)[0], rtol=1e-10, atol=1e-14)
    assert (found.flatten(1).abs().amax(1) > 0).sum() == 1


SINGLE, PAIR = kn.SingleField(kn.DenseKernel(4)), kn.HamiltonianField(kn.DenseKernel(4))
UNFIT = {
    "NaN": (kn.Euler(), SINGLE, {"weight": torch.full((3, 4, 4), math.nan)}, "must be finite"),
    "inf": (kn.Euler(), SINGLE, {"weight": torch.ones(3, 4, 4) / 0}, "must be finite"),
    "another width": (kn.Verlet(), PAIR, {"weight": torch.ones(3, 5, 5)}, "must have shape"),
    "nothing": (kn.Verlet(), PAIR, {}, "missing: weight"),
    "no layers axis": (kn.Verlet(), PAIR, {"weight": torch.ones(4, 4)}, "must have shape"),
    "no layers": (kn.Verlet(), PAIR, {"weight": torch.ones(0, 4, 4)}, "number of layers"),
    "a Control": (kn.Verlet(), PAIR, kn.Control.random(PAIR, 3), "must map names to tensors"),
    "a name": ("verlet", PAIR, {"weight": torch.ones(3, 4, 4)}, "integrator must be a value"),
}


@pytest.mark.parametrize("case", UNFIT.values(), ids=UNFIT)
def test_a_bound_is_refused_for_what_could_not_be_propagated(case):
    integrator, field, controls, message = case
    with pytest.raises(ValueError, match=message):
        kn.step_bound(integrator, field, controls)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu", "silu"])
def test_auto_is_the_least_damping_whatever_the_slope(activation):
    method, controls, h = kn.Euler(), {"weight": randn(3, 4, 4, seed=2)}, 0.1
    field = kn.AntisymmetricField(kn.DenseKernel(4), activation, "auto")
    gamma = float(damped(method, field, controls, h, advise=False).damping)
    assert kn.step_bound(method, field, controls, h).step_size >= (1 - 1e-6) * h
    assert kn.step_bound(method, field.with_damping(0.98 * gamma), controls).step_size < h
    with pytest.warns(kn.StabilityWarning, match="would do") as said:
        damped(method, field.with_damping(0.0), controls, h, advise=True)
    named = float(re.search(r"([\d.]+) would do", str(said[0].message)).group(1))
    assert gamma <= named <= 1.001 * gamma
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        damped(method, field.with_damping(named), controls, h, advise=True)


def test_advice_follows_a_damping_that_is_learned():
    gamma, controls = torch.nn.Parameter(torch.zeros(())), {"weight": randn(3, 4, 4)}
    field = kn.AntisymmetricField(kn.DenseKernel(4), "tanh", gamma)
    with pytest.warns(kn.StabilityWarning, match="does not hold"):
        damped(kn.Euler(), field, controls, 0.01, advise=True)
    with torch.no_grad():
        gamma.fill_(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        damped(kn.Euler(), field, controls, 0.01, advise=True)


def test_advice_on_a_norm_is_shown_once_a_place():
    field = kn.AntisymmetricField(kn.DenseKernel(2), "tanh", "auto", norm=kn.ChannelNorm())
    controls = {"weight": randn(2, 2, 2), "scale": torch.ones(2, 2).double()}
    with pytest.warns(kn.StabilityWarning):  # what is loaded first touches the filters itself
        kn.propagate(kn.Euler(), field, torch.ones(1, 2).double(), controls, 0.1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            kn.propagate(kn.Euler(), field, torch.ones(1, 2).double(), controls, 0.1)
    (only,) = said
    assert "without its norm" in str(only.message)


class Unbounded(kn.Euler):
    """Whose stability nobody has worked out."""

    def amplification(self, h, eigenvalues):
        raise NotImplementedError

    def largest_steps(self, eigenvalues):
        raise NotImplementedError


def test_a_method_without_bounds_runs_and_is_explained():
    field, controls = SKEW(KERNEL, "identity", 0.1), drawn(SKEW(KERNEL), 4)
    assert kn.step_bound(Unbounded(), field, controls) is None
    y0 = randn(2, 3)
    torch.testing.assert_close(
        kn.propagate(Unbounded(), field, y0, controls, 1e-6),
        kn.propagate(kn.Euler(), field, y0, controls, 1e-6),
    )
    with pytest.raises(ValueError, match="Unbounded on AntisymmetricField has no known step bound"):
        kn.propagate(Unbounded(), field, y0, controls, 1e200)


@dataclass(frozen=True)
class Masked(kn.DenseKernel):
    """Some of its weights."""

    mask: torch.Tensor = None

    def apply(self, weight, y):
        return super().apply(weight * self.mask, y)

    def antisymmetric(self, weight):
        return super().antisymmetric(weight * self.mask)


def test_advice_goes_by_fields_that_hold_tensors_of_their_own():
    controls = {"weight": randn(3, 4, 4)}
    for mask, advised in ((torch.ones(4, 4), True), (torch.zeros(4, 4), False)):
        field = kn.AntisymmetricField(Masked(4, mask=mask.double()), damping=0.1)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            damped(kn.Euler(), field, controls, 0.1, advise=True)
        assert bool(said) == advised


# Rounding.


def of_matrices(matrices: torch.Tensor) -> tuple:
    return kn.SingleField(kn.DenseKernel(matrices.shape[-1]), "identity"), {"weight": matrices}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@given(st.integers(2, 9), st.integers(0, 2**31 - 1), st.floats(-12, 12))
def test_a_rotation_has_the_bound_of_its_frequency_whatever_its_rounding(
    dtype, size, seed, exponent
):
    weights = (10.0**exponent * randn(2, size, size, seed=seed)).to(dtype)
    skew = weights - weights.mT
    largest = float(torch.linalg.matrix_norm(skew.double(), 2).max())
    for method, closed in ((kn.RK4(), math.sqrt(8)), (kn.Midpoint(), 1.0)):
        found = kn.step_bound(method, *of_matrices(skew)).step_size
        assert found * largest == pytest.approx(closed, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.integers(3, 9), st.integers(1, 2), st.integers(0, 2**31 - 1))
def test_a_decay_that_leaves_some_directions_alone_has_the_bound_of_its_fastest(dtype, size, rank, seed):  # fmt: skip
    root = randn(1, size, rank, seed=seed, dtype=dtype)
    matrix = -root @ root.mT
    fastest = float(torch.linalg.matrix_norm(matrix.double(), 2))
    for method, closed in ((kn.Euler(), 2 / fastest), (kn.Leapfrog(), 2 / fastest**0.5)):
        found = kn.step_bound(method, *of_matrices(matrix)).step_size
        assert found == pytest.approx(closed, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slow_damping_beside_a_fast_one_is_no_rounding(dtype):
    matrix = torch.block_diag(torch.tensor(-1e3), torch.tensor([[-1e-4, 0.5], [-0.5, -1e-4]]))
    found = kn.step_bound(kn.Euler(), *of_matrices(matrix[None].to(dtype))).step_size
    assert found == pytest.approx(2e-4 / (0.25 + 1e-8), rel=1e-4)


@pytest.mark.parametrize("kernel", [kn.ConvKernel(2, 2), kn.ConvKernel(4, 1, 5, groups=4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_convolutions_that_rotate_have_a_bound_at_every_frequency(kernel, dtype):
    weights = kernel.antisymmetric(randn(3, *kernel.weight_shape, dtype=dtype))
    single = kn.step_bound(kn.RK4(), kn.SingleField(kernel, "identity"), {"weight": weights})
    skew = kn.step_bound(kn.RK4(), kn.AntisymmetricField(kernel, "identity"), {"weight": weights})
    assert 1 <= single.step_size / skew.step_size < 1.2  # the latter bounds its norm from above


@given(st.floats(-30, 30), st.sampled_from((1e-2, 1e-5, 1e-8)))
def test_small_matrices_keep_their_growth(exponent, share):
    matrix = 10.0**exponent * torch.tensor([[[share, 1.0], [-1.0, share]]]).double()
    assert kn.step_bound(kn.RK4(), *of_matrices(matrix)).step_size == 0
    assert kn.step_bound(kn.RK4(), *of_matrices(-matrix)).step_size > 0


# Fields that prepare controls.


class Faster(kn.SingleField):
    """y' = (1 + t) y K: the rate reads time from a control of its own."""

    def prepared(self, controls, depth):
        assert "time" not in controls, "prepared twice"
        return controls | {"time": torch.arange(depth).double() / depth}

    def rate(self, y, theta):
        return (1 + theta["time"]) * self.kernel.apply(theta["weight"], y)

    def spectrum(self, controls):
        return (1 + controls["time"])[:, None] * super().spectrum(controls)


def test_a_bound_is_that_of_controls_which_the_field_prepares():
    field, rotation = Faster(kn.DenseKernel(2)), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    controls = {"weight": rotation.double().expand(4, 2, 2)}
    bound = kn.step_bound(kn.RK4(), field, controls)
    assert bound.step_size == pytest.approx(math.sqrt(8) / 1.75) and bound.layer == 3
    with pytest.raises(ValueError, match=r"step bound 2\.828 of RK4 on Faster set by layer 1"):
        kn.propagate(kn.RK4(), field, randn(2, 2), controls, 1e100)


# Without looks at the numbers.


@pytest.mark.parametrize("method", [kn.Euler(), kn.RK4()])
def test_automatic_damping_passes_vmap(method):
    field, weights, y0 = SKEW(KERNEL, damping="auto"), 0.3 * randn(4, 5, 3, 3), randn(2, 3)

    def final(weight: torch.Tensor) -> torch.Tensor:
        return kn.propagate(method, field, y0, {"weight": weight}, 0.1, checked=False)

    torch.testing.assert_close(torch.func.vmap(final)(weights), torch.stack([*map(final, weights)]))
    pulled = torch.func.vmap(torch.func.grad(lambda w: final(w).square().sum()))(weights)
    for one, weight in zip(pulled, weights, strict=True):
        leaf = weight.clone().requires_grad_()
        (expected,) = torch.autograd.grad(final(leaf).square().sum(), leaf)
        torch.testing.assert_close(one, expected)


@UNSTABLE
@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_the_gradient_of_automatic_damping_is_finite_and_the_one_layers(share):
    weight = torch.zeros(3, 2, 2).double()
    weight[:, 0, 1], weight[:, 1, 0] = torch.tensor([0.3, 1, 0.2]), torch.tensor([-0.3, -1, -0.2])
    weight = (share * weight).requires_grad_()
    gamma = resolved(kn.Euler(), {"weight": weight}, 1.0, kn.DenseKernel(2))
    (gradient,) = torch.autograd.grad(gamma, weight)
    assert bool(gradient.isfinite().all())
    assert not gradient[[0, 2]].any() and bool(gradient[1].any()) == (share <= 1)


def test_damping_is_the_same_under_autocast():
    controls = {"weight": randn(3, 3, 3, dtype=torch.float32)}
    expected = float(resolved(kn.Euler(), controls, 0.1))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(resolved(kn.Euler(), controls, 0.1)) == expected


class Explicit(kn.Integrator):
    """Euler's step, and nothing known of it."""

    def step(self, field, state, theta, h, layer):
        return tuple(y + h * rate for y, rate in zip(state, field.rates(state, theta), strict=True))

    def amplification(self, h, eigenvalues):
        raise NotImplementedError

    def largest_steps(self, eigenvalues):
        raise NotImplementedError


def test_a_method_that_knows_no_damping_is_named():
    field, controls = SKEW(KERNEL, damping="auto"), drawn(SKEW(KERNEL), 3)
    with pytest.raises(ValueError, match='damping="auto" asks Explicit for the least damping'):
        kn.propagate(Explicit(), field, randn(2, 3), controls, 0.1)
    assert kn.propagate(Explicit(), field.with_damping(0.1), randn(2, 3), controls, 0.1).shape


def test_where_f_falls_a_layer_grows_below_the_bound():
    """What the documentation says of sin: the largest f' is 1, and −1 at y = π."""
    field, controls = kn.HamiltonianField(kn.DenseKernel(1), "sin"), {"weight": torch.ones(100, 1, 1).double()}  # fmt: skip
    assert not field.activation.rising
    y0 = torch.tensor([[math.pi]]).double().requires_grad_()
    (grown,) = torch.autograd.grad(kn.propagate(kn.Verlet(), field, y0, controls, 0.1).sum(), y0)
    assert kn.step_bound(kn.Verlet(), field, controls).step_size == pytest.approx(2)
    assert float(grown) > 1e4
    (row,) = kn.analysis.stability(
        kn.Block(kn.Verlet(), field, 100, 10.0, kn.Control(controls)), y0.detach()
    ).blocks
    assert "may be negative" in row.reach
