"""Products through a path agree with the whole Jacobian, for every method; memory stays that of a few states."""

import numpy as np
import pytest
import torch
from functions import Twice
from peaks import peak
from problems import exact_growth

import keelnet as kn
from keelnet.analysis import growths
from keelnet.analysis.derivatives import Jacobian
from keelnet.analysis.growths import growth_by_layer
from keelnet.analysis.invariants import invariants
from keelnet.analysis.path import Path, PathDerivative
from keelnet.analysis.singular import extremes
from keelnet.dynamics import PartitionedField, Slot

K = kn.DenseKernel(4)
CASES = {
    "euler": (kn.Euler(), kn.SingleField(K)),
    "damped": (kn.Euler(), kn.AntisymmetricField(K, damping="auto")),
    "rk4": (kn.RK4(), kn.SingleField(K, "sin")),
    "midpoint": (kn.Midpoint(), kn.AntisymmetricField(K)),
    "leapfrog": (kn.Leapfrog("half"), kn.SymmetricField(kn.DenseKernel(4, 3))),
    "verlet": (kn.Verlet(), kn.HamiltonianField(K)),
    "rectangular": (kn.Verlet("half"), kn.HamiltonianField(kn.DenseKernel(4, 2))),
    "double": (kn.Verlet(), kn.DoubleHamiltonianField(K, kn.DenseKernel(4, 5))),
    "imex": (
        kn.IMEX(kn.DenseDiffusion(torch.eye(4, dtype=torch.float64))),
        kn.SingleField(K),
    ),
    "module": (kn.Verlet(), kn.ModuleField(torch.nn.Linear(4, 4).double())),
}


def block_of(name, depth=5):
    generator = torch.Generator().manual_seed(1)
    integrator, field = CASES[name]
    control = kn.Control.random(field, depth, generator).double()
    with torch.no_grad():
        for value in control.parameters():  # controls that differ from layer to layer
            value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    return kn.Block(integrator, field, depth, 1.0, control)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("split", [False, True])
def test_products_are_those_of_the_whole_jacobian(name, split):
    subject = block_of(name)
    width = 4
    if split:
        if not isinstance(subject.integrator, kn.Verlet):
            return
        width = 6 if name == "rectangular" else 8
    generator = torch.Generator().manual_seed(2)
    y, v = torch.randn(2, 2, width, dtype=torch.float64, generator=generator)
    path = Path.of(subject, y)
    derivative = PathDerivative(path, y)
    whole = Jacobian(lambda x: subject.propagated(x, kn.store_all), y).matrix()
    w = torch.randn(whole.shape[:2], dtype=torch.float64, generator=generator)
    torch.testing.assert_close(derivative.matrix(), whole)
    torch.testing.assert_close(derivative.pushed(v), torch.einsum("bij,bj->bi", whole, v))
    torch.testing.assert_close(derivative.pulled(w), torch.einsum("bij,bi->bj", whole, w))
    course = growth_by_layer(path, y[:1])
    exact = torch.linalg.svdvals(whole[0])[[0, -1]]
    assert course[-1] == pytest.approx(exact.tolist())
    found = extremes(derivative)
    assert found.largest[0] == pytest.approx(exact[0].item())
    if invariants(path, y).returns(y.dtype):
        back = PathDerivative(path, y, back=True)
        torch.testing.assert_close(back.pulled(v), derivative.pulled(v))


@pytest.mark.parametrize(
    ("name", "returns"), [("euler", False), ("leapfrog", True), ("verlet", True), ("double", True), ("module", True)]
)  # fmt: skip
def test_only_what_can_be_stepped_back_is(name, returns):
    subject = block_of(name)
    y = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert invariants(Path.of(subject, y), y).returns(y.dtype) == returns


def test_states_that_do_not_come_back_are_computed_again():
    """Twelve decades of growth leave no digit of the start."""
    field = kn.SymmetricField(kn.DenseKernel(1), "identity")
    control = kn.Control({"weight": torch.full((30, 1, 1), 3.0, dtype=torch.float64)})
    y = torch.ones(1, 1, dtype=torch.float64)
    path = Path.of(kn.Block(kn.Leapfrog(), field, 30, 30.0, control), y)
    found = invariants(path, y)
    assert found.reversal_error > 1e-11 and not found.returns(torch.float64)
    assert not found.returns(torch.float32) or found.reversal_error < 1e-5


def test_the_growth_of_what_does_not_come_back_is_that_along_the_states_it_had():
    """By products. Stepped back, the first layers would see other signs, so other slopes."""
    field = kn.SymmetricField(kn.DenseKernel(70), "leaky_relu")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(30, 70, 70, dtype=torch.float64, generator=generator) / 70**0.5
    subject = kn.Block(kn.Leapfrog(), field, 30, 30.0, kn.Control({"weight": 2.5 * weight}))
    y = torch.randn(2, 70, dtype=torch.float64, generator=generator)
    (row,) = kn.analysis.stability(subject, y).blocks
    assert row.reversal_error > 1 and row.converged
    assert row.growth == pytest.approx(exact_growth(subject, y), rel=1e-6)


def test_growth_by_layer_of_many_numbers_is_a_lower_bound_that_comes_close():
    kernel = kn.ConvKernel(2, dim=2)
    field = kn.SingleField(kernel)
    control = kn.Control.random(field, 4, torch.Generator().manual_seed(0)).double()
    subject = kn.Block(kn.Euler(), field, 4, 1.0, control)
    y = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    path = Path.of(subject, y)
    exact = torch.linalg.svdvals(PathDerivative(path, y).matrix())[0, 0].item()
    found = growth_by_layer(path, y)[-1, 0]
    assert 0.9 * exact <= found <= exact * (1 + 1e-9)


@pytest.mark.parametrize("rate", [8.0, -1.0])
def test_what_is_followed_may_grow_beyond_the_square_root_of_float32_or_vanish(rate):
    field = kn.SingleField(kn.DenseKernel(70), "identity")
    control = kn.Control({"weight": rate * torch.eye(70).repeat(25, 1, 1)})
    y = torch.ones(1, 70)
    course = growth_by_layer(Path.of(kn.Block(kn.Euler(), field, 25, 25.0, control), y), y)
    assert course[:, 0] == pytest.approx((1 + rate) ** np.arange(1, 26), rel=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-9, 1e-15, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_energy_of_small_features_is_that_of_a_linear_network(size, dtype):
    """cosh is 1 + x²/2 there, so that the energy deviates as that of f(x) = x."""
    y = size * torch.tensor([[0.3, 0.4, -0.1, 0.2]], dtype=dtype)
    found = []
    for activation in ("tanh", "identity"):
        field = kn.HamiltonianField(kn.DenseKernel(2), activation)
        control = kn.Control({"weight": torch.eye(2, dtype=dtype).repeat(40, 1, 1)})
        subject = kn.Block(kn.Verlet(), field, 40, 20.0, control)
        found.append(invariants(Path.of(subject, y), y))
    bent, linear = found
    assert bent.energy_deviation == pytest.approx(linear.energy_deviation, rel=2e-2)
    assert bent.energy_drift == pytest.approx(linear.energy_drift, rel=2e-2, abs=1e-4)
    assert (bent.energy_deviation > 1e-2) == (size > 0)


def test_a_start_at_zero_is_stepped_back_to_as_exactly_as_another():
    field, weight = kn.HamiltonianField(kn.DenseKernel(2)), torch.eye(2).repeat(10, 1, 1)
    control = kn.Control({"weight": weight, "bias": torch.full((10, 2), 0.3)})
    subject = kn.Block(kn.Verlet(), field, 10, 2.0, control)
    for y in (torch.zeros(2, 4), torch.eye(2, 4)):
        y[1] = 0.1
        found = invariants(Path.of(subject, y), y)
        assert found.reversal_error < 1e-6 and found.returns(torch.float32)


@pytest.mark.parametrize("start", ["full", "half"])
def test_a_constant_verlet_network_keeps_its_energy_and_can_be_stepped_back(start):
    weight = torch.tensor([[2.0, 1.0, 0.0], [1.0, -1.0, 2.0]], dtype=torch.float64)
    deviations = []
    for h in (0.2, 0.1, 0.05):
        depth = round(40 / h)
        field = kn.HamiltonianField(kn.DenseKernel(2, 3))
        control = kn.Control({"weight": weight[None]}).double()
        subject = kn.Block(kn.Verlet(start), field, depth, 40.0, control)
        y = torch.tensor([[0.3, 0.4], [0.0, 0.5]], dtype=torch.float64)
        found = invariants(Path.of(subject, y), y)
        deviations.append(found.energy_deviation)
        assert abs(found.energy_drift) < 0.01
        assert found.reversal_error < 1e-11
    ratio = 2 if start == "full" else 4  # first and second order in h
    assert deviations[0] / deviations[1] == pytest.approx(ratio, rel=0.25)
    assert deviations[1] / deviations[2] == pytest.approx(ratio, rel=0.25)


def test_the_energy_of_euler_grows_and_it_cannot_be_stepped_back():
    field = kn.HamiltonianField(kn.DenseKernel(2), "identity")
    control = kn.Control({"weight": torch.eye(2, dtype=torch.float64)[None]})
    subject = kn.Block(kn.Euler(), field, 100, 10.0, control)
    y = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    found = invariants(Path.of(subject, y), y)
    assert found.energy_deviation == pytest.approx(1.01**100 - 1)  # |1 + i h|² a layer
    assert found.reversal_error is None


def test_an_energy_that_is_not_known_is_none():
    field = kn.HamiltonianField(K, "gelu")
    subject = kn.Block(kn.Verlet(), field, 3).double()
    found = invariants(Path.of(subject, torch.ones(1, 4).double()), torch.ones(1, 4).double())
    assert found.energy_deviation is None and found.reversal_error < 1e-12


def test_the_count_of_memory_sees_what_lives_together():
    def chain(needs):
        y = torch.zeros(250, requires_grad=needs)
        for _ in range(9):
            y = y.sin()

    assert peak(lambda: chain(False)) == 2 * 1000
    assert peak(lambda: chain(True)) == 10 * 1000


@pytest.mark.parametrize("name", ["residual", "hamiltonian"])
@pytest.mark.parametrize(("samples", "layers"), [(1, None), (6, None), (6, 1)])
def test_the_analysis_takes_less_than_two_forward_passes(name, samples, layers, monkeypatch):
    """Of inference where samples can be taken one after the other; of training for a single one."""
    monkeypatch.setattr(growths, "KEPT", 1)  # as if these few numbers were many
    network = getattr(kn.architectures, name)(1, 2, width=4, depth=12, dim=2, strategy=kn.store_all)
    network.eval()
    x = torch.randn(samples, 1, 32, 32)
    with kn.engine("reference"), torch.set_grad_enabled(samples == 1):
        once = peak(lambda: network(x))
    assert peak(lambda: kn.analysis.stability(network, x, layers, iterations=1)) < 2 * once


class Rubbing(kn.Verlet):
    """Verlet, then friction."""

    def step(self, field, state, theta, h, layer):
        y, z = super().step(field, state, theta, h, layer)
        return y, 0.5 * z

    def undo(self, field, state, theta, h, layer):
        y, z = state
        return super().undo(field, (y, 2 * z), theta, h, layer)

    def reversal_obstacle(self, field):
        return None


class Branch(torch.nn.Linear):
    def forward(self, x):
        return Twice.apply(super().forward(x))


class Energetic(PartitionedField):
    """y' = ∂H/∂z, z' = −∂H/∂y of H = ∑ log cosh, by autograd."""

    channel_axis = -1

    def theta_shapes(self):
        return {"k": Slot((4, 4), initial=torch.eye(4))}

    def parts(self, y0):
        return y0, torch.zeros_like(y0)

    def is_split(self, y0):
        return False

    def slope(self, x, theta):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            energy = (x @ theta["k"]).cosh().log().sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    def rate_of_y(self, z, theta):
        return self.slope(z, theta)

    def rate_of_z(self, y, theta):
        return -self.slope(y, theta)


@pytest.mark.parametrize(
    ("method", "field", "width"),
    [
        (Rubbing(), kn.HamiltonianField(K), 8),
        (kn.Euler(), kn.SingleField(K, Twice.apply), 4),
        (kn.Verlet(), kn.ModuleField(Branch(4, 4)), 4),
        (kn.Verlet(), Energetic(), 4),
        (kn.RK4(), Energetic(), 4),
    ],
    ids=["step", "activation", "branch", "energy", "energy rk4"],
)
@pytest.mark.parametrize("small", [0, 64])
def test_the_growth_of_what_is_one_s_own_is_that_of_the_whole_jacobian(
    method, field, width, small, monkeypatch
):
    """By the matrix and by products."""
    monkeypatch.setattr(extremes, "__defaults__", (30, 0, small, 0.0))
    monkeypatch.setattr(growths, "SMALL", small)
    monkeypatch.setattr(growths, "POWER", 100)
    torch.manual_seed(0)
    subject = kn.Block(method, field, 6, 3.0).double()
    y = torch.randn(2, width, dtype=torch.float64)
    (row,) = kn.analysis.stability(subject, y, layers="all").blocks
    exact = exact_growth(subject, y)
    assert row.growth == pytest.approx(exact)
    assert row.course[-1][0] == pytest.approx(exact)
