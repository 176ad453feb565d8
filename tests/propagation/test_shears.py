"""Laws of reversible integrators: layers are undone exactly, keep volume, and keep energy in bounds."""

import pytest
import torch
from problems import FIELDS, SCHEMES, constant, flat, randn
from torch.func import jacrev

import keelnet as kn
from keelnet.propagation.shears import ShearIntegrator

SHEARS = [n for n, s in SCHEMES.items() if isinstance(s.integrator, ShearIntegrator)]
SMALL = [n for n in SHEARS if SCHEMES[n].case.y0(1).numel() <= 40]
H = 0.1


@pytest.mark.parametrize("name", SHEARS)
def test_undoing_every_layer_returns_to_the_start(name):
    scheme, depth = SCHEMES[name], 20
    field, integrator = scheme.integrator.adapted(scheme.field), scheme.integrator
    controls = field.prepared(scheme.case.controls(depth), depth)
    thetas = [{key: value[layer] for key, value in controls.items()} for layer in range(depth)]
    start = state = scheme.state(scheme.case.y0())
    for layer, theta in enumerate(thetas):
        state = integrator.step(field, state, theta, H, layer)
    assert float((state[0] - start[0]).norm()) > 0.1
    for layer, theta in reversed(list(enumerate(thetas))):
        state = integrator.undo(field, state, theta, H, layer)
    for before, after in zip(start, state, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_a_layer_keeps_volume(name, layer):
    scheme = SCHEMES[name]
    field = scheme.integrator.adapted(scheme.field)
    state = scheme.state(scheme.case.y0(1))
    sizes, shapes = [x.numel() for x in state], [x.shape for x in state]

    def after(numbers: torch.Tensor) -> torch.Tensor:
        pieces = zip(numbers.split(sizes), shapes, strict=True)
        parts = tuple(piece.reshape(shape) for piece, shape in pieces)
        return flat(scheme.integrator.step(field, parts, scheme.case.theta(), 0.5, layer))

    _, logarithm = torch.linalg.slogdet(jacrev(after)(flat(state)))
    assert float(logarithm) == pytest.approx(0, abs=1e-10)


def energies(integrator, field, theta, h: float, time: float) -> torch.Tensor:
    """Energy along the path of a few samples, y and z at the same time."""
    y0 = torch.cat((randn(5, field.widths[0]), torch.zeros(5, field.widths[1]).double()), 1)
    states = kn.trajectory(integrator, field, y0, constant(theta, round(time / h)), h)
    kept = []
    for y, z in states[1:]:
        if isinstance(integrator, kn.Verlet):  # z waits half a step before y
            z = z + h / 2 * field.rate_of_z(y, theta)
        kept.append(field.energy(y, z, theta))
    return torch.stack(kept)


@pytest.mark.parametrize("name", ["hamiltonian", "hamiltonian 3x5", "double 3x5"])
def test_the_energy_of_verlet_is_bounded_with_the_square_of_the_step_and_does_not_drift(name):
    case = FIELDS[name]
    theta = case.theta(gain=1.0)
    spreads = []
    for h in (0.2, 0.1, 0.05):
        along = energies(kn.Verlet("half"), case.field, theta, h, 50.0)
        spreads.append(float(((along.amax(0) - along.amin(0)) / along[0]).max()))
        first, second = along.chunk(2)
        assert float((first.mean(0) - second.mean(0)).abs().max()) < 0.1 * float(
            (along.amax(0) - along.amin(0)).max()
        )
    assert spreads[0] < 0.05
    assert spreads[0] / spreads[1] == pytest.approx(4, rel=0.15)
    assert spreads[1] / spreads[2] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("name", ["hamiltonian", "hamiltonian 3x5", "double 3x5"])
def test_the_energy_of_euler_grows_without_end(name):
    case = FIELDS[name]
    along = energies(kn.Euler(), case.field, case.theta(gain=1.0), 0.1, 100.0)
    quarters = torch.stack([part.mean(0) for part in along.chunk(4)])
    assert bool((quarters.diff(dim=0) > 0).all())
    assert bool((along[-1] > 1.5 * along[0]).all())


def test_leapfrog_is_the_two_step_recursion():
    """y₊ = 2 y − y₋ + h² f(y), y₋₁ = y₀."""
    case = FIELDS["symmetric 3x5"]
    y0, controls = case.y0(), case.controls(6)
    before, y = y0, y0
    for layer in range(6):
        theta = {name: value[layer] for name, value in controls.items()}
        before, y = y, 2 * y - before + H**2 * case.field.rate(y, theta)
    got = kn.propagate(kn.Leapfrog(), case.field, y0, controls, H)
    torch.testing.assert_close(got, y, rtol=1e-13, atol=1e-13)


def test_midpoint_is_the_two_step_recursion():
    """y₁ = y₀ + h f(y₀), then y₊ = y₋ + 2 h f(y)."""
    case = FIELDS["antisymmetric conv1"]
    y0, controls = case.y0(), case.controls(5)
    thetas = [{name: value[layer] for name, value in controls.items()} for layer in range(5)]
    before, y = y0, y0 + H * case.field.rate(y0, thetas[0])
    for theta in thetas[1:]:
        before, y = y, before + 2 * H * case.field.rate(y, theta)
    got = kn.propagate(kn.Midpoint(), case.field, y0, controls, H)
    torch.testing.assert_close(got, y, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["hamiltonian conv1 2x3", "double 3x5"])
@pytest.mark.parametrize("start", ["full", "half"])
def test_verlet_moves_one_part_and_then_the_other_with_the_new_first(name, start):
    case = FIELDS[name]
    controls = case.controls(4)
    y, z = case.field.parts(case.y0())
    y_first = isinstance(case.field, kn.DoubleHamiltonianField) and start == "full"
    for layer in range(4):
        theta = {key: value[layer] for key, value in controls.items()}
        if y_first:
            y = y + H * case.field.rate_of_y(z, theta)
        z = z + (H / 2 if start == "half" and layer == 0 else H) * case.field.rate_of_z(y, theta)
        if not y_first:
            y = y + H * case.field.rate_of_y(z, theta)
    got = kn.propagate(kn.Verlet(start), case.field, case.y0(), controls, H)
    torch.testing.assert_close(got, torch.cat((y, z), 1), rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("make", [kn.Verlet, kn.Leapfrog])
def test_other_starts_are_refused(make):
    with pytest.raises(ValueError, match='start must be "full" or "half", got \'Half\''):
        make("Half")


class Friction(kn.Verlet):
    """A step of its own, of which the shears know nothing."""

    def step(self, field, state, theta, h, layer):
        y, z = super().step(field, state, theta, h, layer)
        return y, 0.5 * z


def test_a_step_of_its_own_is_not_undone_by_the_shears():
    field = kn.HamiltonianField(kn.DenseKernel(2), "tanh")
    controls = {"weight": torch.randn(3, 2, 2, dtype=torch.float64)}
    y0 = torch.randn(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="Friction has a step of its own"):
        kn.propagate(Friction(), field, y0, controls, 0.1, kn.reversible)
    assert kn.engine_of(Friction(), field, y0, controls, 0.1).name == "reference"
