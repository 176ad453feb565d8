"""Laws of every integrator: its order, its solutions, and the numbers of other people's programs."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import (
    FIELDS,
    METHODS,
    PLAIN,
    REFERENCE,
    SCHEMES,
    FieldCase,
    Scheme,
    constant,
    solved,
)

import keelnet as kn

LINEAR = {
    name: Scheme(scheme.method, scheme.case.activated("identity"))
    for name, scheme in SCHEMES.items()
    if scheme.case.plain
}
EVERY_LINEAR = pytest.mark.parametrize("scheme", LINEAR.values(), ids=LINEAR)
# Numbers to match, of damping too small to be stable.
UNSTABLE = pytest.mark.filterwarnings("ignore::keelnet.propagation.integrators.StabilityWarning")


def last_y(scheme: Scheme, y0: torch.Tensor, controls: dict, h: float) -> torch.Tensor:
    """y at the end alone: under a half start z is half a step behind."""
    return kn.trajectory(scheme.integrator, scheme.field, y0, controls, h)[-1][0]


@EVERY_LINEAR
def test_linear_problems_are_solved_to_the_order_of_the_method(scheme):
    y0, theta, time = scheme.case.y0(1), scheme.case.theta(), 1.0
    exact = solved(scheme, y0, theta, time)
    assert float((exact - scheme.integrator.adapted(scheme.field).parts(y0)[0]).norm()) > 0.1
    errors = [
        float((last_y(scheme, y0, constant(theta, depth), time / depth) - exact).norm())
        for depth in (16, 32, 64)
    ]
    assert errors[0] < 0.5
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[1] == pytest.approx(scheme.method.order, abs=0.2)


class Continuous:
    """y' = f(y, θ(t)) solved by Runge–Kutta on a fine grid, written without the package's loop."""

    def __init__(self, case: FieldCase, control: kn.Control, h: float, depth: int) -> None:
        self.field, self.h, self.depth = case.field, h, depth
        with torch.no_grad():
            self.halves = control.at_layers(2 * depth)

    def rate(self, state: torch.Tensor, half: int, split: list[int]) -> torch.Tensor:
        theta = {name: value[min(half, 2 * self.depth - 1)] for name, value in self.halves.items()}
        return torch.cat(self.field.rates(state.split(split, -1), theta), -1)

    def solution(self, y0: torch.Tensor) -> torch.Tensor:
        state, h = y0, self.h
        parts = self.field.parts(y0)
        split = [part.shape[-1] for part in parts]
        for step in range(self.depth):
            a = self.rate(state, 2 * step, split)
            b = self.rate(state + h / 2 * a, 2 * step + 1, split)
            c = self.rate(state + h / 2 * b, 2 * step + 1, split)
            d = self.rate(state + h * c, 2 * step + 2, split)
            state = state + h / 6 * (a + 2 * b + 2 * c + d)
        return state.split(split, -1)[0]


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("euler", "single"),
        ("euler", "antisymmetric damped"),
        ("euler", "symmetric 3x5"),
        ("rk4", "single"),
        ("midpoint", "antisymmetric"),
        ("verlet", "hamiltonian 3x5"),
        ("verlet half", "hamiltonian"),
        ("verlet", "double 3x5"),
        ("verlet half", "double 3x5"),
    ],
)
def test_all_methods_converge_to_one_flow_where_theta_moves(method, field):
    """Layers freeze θ at their start, so that every method is of first order in time."""
    case, time = FIELDS[field], 2.0
    control = kn.Control(case.controls(4, gain=1.0))
    y0 = case.y0()
    exact = Continuous(case, control, time / 512, 512).solution(y0)
    errors = []
    for depth in (32, 64, 128):
        with torch.no_grad():
            y = last_y(Scheme(METHODS[method], case), y0, control.at_layers(depth), time / depth)
        errors.append(float((y - exact).norm()))
    assert errors[-1] < 0.05
    assert errors[0] / errors[2] > 3.5


@pytest.mark.parametrize("name", SCHEMES)
def test_a_vanishing_step_changes_nothing(name):
    scheme = SCHEMES[name]
    y0 = scheme.case.y0()
    y = scheme.run(y0, scheme.case.controls(3), 1e-13)
    torch.testing.assert_close(y, y0, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "name", ["single", "symmetric 3x5", "hamiltonian 3x5", "double 3x5", "single conv2 grouped"]
)
def test_euler_is_the_sum_of_residuals(name):
    case = FIELDS[name]
    parts, controls = case.field.parts(case.y0()), case.controls(3)
    for layer in range(3):
        theta = {key: value[layer] for key, value in controls.items()}
        rates = case.field.rates(parts, theta)
        parts = tuple(x + 0.1 * rate for x, rate in zip(parts, rates, strict=True))
    expected = torch.cat(parts, case.field.channel_axis) if case.two_parts else parts[0]
    got = kn.propagate(kn.Euler(), case.field, case.y0(), controls, 0.1)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


KERNEL = kn.DenseKernel(3)
PEERS = {
    "euler": (kn.Euler(), kn.SingleField(KERNEL)),
    "antisym": (kn.Euler(), kn.AntisymmetricField(KERNEL, damping=0.05)),
    "parabolic": (kn.Euler(), kn.SymmetricField(KERNEL)),
    "rk4": (kn.RK4(), kn.SingleField(KERNEL)),
    "leapfrog_mid": (kn.Midpoint(), kn.AntisymmetricField(KERNEL)),
    "leapfrog2": (kn.Leapfrog(), kn.SymmetricField(KERNEL)),
    "verlet1": (kn.Verlet(), kn.HamiltonianField(KERNEL)),
    "verlet1_half": (kn.Verlet("half"), kn.HamiltonianField(KERNEL)),
    "hamilton2": (kn.Verlet(), kn.DoubleHamiltonianField(KERNEL, KERNEL)),
}
# The control that a peer's gradient belongs to.
NAMES_1 = {"weight": "K", "bias": "u"}
NAMES_2 = {"weight_1": "K", "bias_1": "u", "weight_2": "K2", "bias_2": "u2"}


@pytest.fixture(scope="module")
def peers() -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / "peers_small.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def applicable(strategy, method, field) -> bool:
    return strategy is not kn.reversible or method.reversal_obstacle(field) is None


@UNSTABLE
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(name, strategy, id=f"{name} {strategy.__name__}")
        for name, (method, field) in PEERS.items()
        for strategy in (kn.store_all, kn.checkpointed, kn.reversible)
        if applicable(strategy, method, field)
    ],
)
def test_values_and_gradients_are_those_of_other_programs(name, strategy, peers):
    def given(which: str) -> torch.Tensor:
        return peers[f"inputs__w3_d10__{which}"].clone().requires_grad_()

    def agrees(mine: torch.Tensor, which: str) -> None:
        theirs = peers[f"{name}__w3_d10_tanh__{which}"]
        assert float((mine - theirs).abs().max()) < 1e-12 * float(theirs.abs().max())

    method, field = PEERS[name]
    names = NAMES_2 if name == "hamilton2" else NAMES_1
    controls = {mine: given(theirs) for mine, theirs in names.items()}
    y0, z0 = given("Y0"), given("Z0")
    features = torch.cat((y0, z0), 1) if name == "hamilton2" else y0
    final = kn.propagate(method, field, features, controls, 0.1, strategy=strategy)
    (final.square().sum() / 2).backward()
    agrees(final.detach()[:, :3], "YN")
    agrees(y0.grad, "gY0")
    for mine, theirs in names.items():
        agrees(controls[mine].grad, f"g{theirs}")
    if name == "hamilton2":
        agrees(final.detach()[:, 3:], "XN")
        agrees(z0.grad, "gZ0")


@pytest.fixture(scope="module")
def figures() -> dict:
    return json.loads((REFERENCE / "seed_experiments.json").read_text())


def exactly(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


SEED_KERNELS = {"plus": [[2, -2], [0, 2]], "minus": [[-2, 0], [2, -2]], "zero": [[0, -1], [1, 0]]}


def path(integrator, field, y0, kernel, depth) -> torch.Tensor:
    """All states of y, with h = 0.1 and the kernel in every layer."""
    states = kn.trajectory(integrator, field, y0, constant({"weight": kernel}, depth), 0.1)
    return torch.stack([state[0] for state in states])


@pytest.mark.parametrize("kernel", SEED_KERNELS)
def test_euler_draws_the_seeds_figure(kernel, figures):
    field = kn.SingleField(kn.DenseKernel(2))
    got = path(kn.Euler(), field, exactly(figures["y0"]), exactly(SEED_KERNELS[kernel]), 21)
    torch.testing.assert_close(got, exactly(figures["euler_N21"][kernel]), rtol=0, atol=1e-12)


@UNSTABLE
@pytest.mark.parametrize("kernel", ["plus", "minus"])
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_antisymmetric_euler_draws_the_seeds_figure(kernel, damping, figures):
    field = kn.AntisymmetricField(kn.DenseKernel(2), damping=damping)
    got = path(kn.Euler(), field, exactly(figures["y0"]), exactly(SEED_KERNELS[kernel]), 21)
    expected = exactly(figures["antisymmetric_N21"][f"{kernel}_gamma_{damping}"])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [20, 50, 100, 200, 500, 1000])
@pytest.mark.parametrize("start", ["full", "half"])
def test_verlet_draws_both_readings_of_the_seeds_kernel(depth, start, figures):
    rows = exactly(figures["verlet_kernel_rows_are_y_components"])
    plane = exactly(figures["y0"])
    space = torch.cat((plane, torch.zeros(3, 1, dtype=torch.float64)), 1)
    expected = figures["verlet"][f"N{depth}_{start}"]
    for y0, kernel, names in (
        (space, rows, ("y_in_R3", "z_in_R2")),
        (plane, rows.T, ("y_in_R2", "z_in_R3")),
    ):
        field = kn.HamiltonianField(kn.DenseKernel(*kernel.shape))
        controls = constant({"weight": kernel}, depth)
        final = kn.trajectory(kn.Verlet(start), field, y0, controls, 0.1)[-1]
        for part, name in zip(final, names, strict=True):
            torch.testing.assert_close(part, exactly(expected[name]), rtol=0, atol=1e-11)


def test_every_plain_field_takes_part():
    """The table of schemes leaves out no field."""
    moved = {id(scheme.case) for scheme in SCHEMES.values()}
    assert all(id(case) in moved for case in FIELDS.values())
    assert {id(LINEAR[n].method) for n in LINEAR} == {id(m) for m in METHODS.values()}
    assert len(PLAIN) > 20


@pytest.mark.parametrize("method", [kn.Leapfrog(), kn.Midpoint(), kn.IMEX(kn.LaplacianDiffusion())])
def test_methods_of_one_part_refuse_partitioned_fields(method):
    case = FIELDS["hamiltonian"]
    with pytest.raises(ValueError, match="moves a field of one part, got HamiltonianField"):
        kn.propagate(method, case.field, case.y0(), case.controls(2), 0.1)


@pytest.mark.parametrize("name", ["single", "antisymmetric", "symmetric"])
@pytest.mark.parametrize("start", ["full", "half"])
def test_verlet_refuses_fields_of_one_part(name, start):
    case = FIELDS[name]
    wanted = f"{type(case.field).__name__} has one part, but a partitioned method moves two"
    with pytest.raises(ValueError, match=wanted):
        kn.propagate(kn.Verlet(start), case.field, case.y0(), case.controls(2), 0.1)
