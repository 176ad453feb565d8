"""Growth and spectra: against automatic differentiation through the library's own loop, and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import EVERY, FIRST

import keelnet as kn
from keelnet.app.message import Picture
from keelnet.app.model import Model
from keelnet.app.paths import Paths, arrows
from keelnet.app.spectra import eigenvalues

# Scenes that grow are what the page is for.
pytestmark = pytest.mark.filterwarnings("ignore::keelnet.propagation.StabilityWarning")

CHANGING = {"variation": "smooth", "strength": 0.4, "period": 1.3}


def by_differentiation(model, feature):
    """Singular values of ∂y_N/∂y_0, by reverse mode through propagate."""

    def last(y0):
        return kn.propagate(
            model.integrator, model.resolved, y0[None], model.controls, model.scene.step_size
        )[0]

    with kn.engine("reference"):
        jacobian = torch.autograd.functional.jacobian(last, model.y0[feature])
    return torch.linalg.svdvals(jacobian).numpy()


@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize("name", EVERY)
def test_growth_is_that_of_the_whole_map(name, depth):
    model = Model(replace(EVERY[name], depth=depth, **CHANGING))
    found = Picture(model.scene).growth
    for feature in range(2):
        wanted = by_differentiation(model, feature)
        ends = 10.0 ** np.array([found.largest[-1, feature], found.smallest[-1, feature]])
        np.testing.assert_allclose(ends, [wanted[0], wanted[-1]], rtol=1e-9)


@pytest.mark.parametrize("depth", [127, 128, 300])
def test_growth_of_a_deep_network_is_a_power(depth):
    """Linear Euler on K = 2 I: exactly (1 + 2 h)^j after every layer j, past what a float can hold."""
    scene = replace(
        FIRST,
        kernel=((2.0, 0.0), (0.0, 2.0)),
        activation="identity",
        step_size=5.0,
        depth=depth,
        features=((0.0, 0.0),),
    )
    found = Picture(scene).growth
    np.testing.assert_allclose(found.largest[:, 0], found.layers * math.log10(11), atol=1e-9)
    np.testing.assert_allclose(found.smallest, found.largest, atol=1e-9)
    assert found.layers[0] == 0 and found.layers[-1] == depth


@pytest.mark.parametrize(
    ("kernel", "values"),
    [
        (((2.0, -2.0), (0.0, 2.0)), [2, 2]),
        (((-2.0, 0.0), (2.0, -2.0)), [-2, -2]),
        (((0.0, -1.0), (1.0, 0.0)), [-1j, 1j]),
    ],
)
def test_eigenvalues_at_the_origin_are_those_of_the_kernel(kernel, values):
    scene = replace(FIRST, kernel=kernel, features=((0.0, 0.0),))
    _, found = eigenvalues(Paths(Model(scene)))
    # A double eigenvalue without a second eigenvector moves by the root of the rounding.
    np.testing.assert_allclose(np.sort_complex(found[0, 0]), values, atol=1e-7)


def test_eigenvalues_of_hamiltonian_fields_are_the_singular_values_of_k():
    scene = replace(EVERY["verlet-hamiltonian-full"], features=((0.0, 0.0),))
    _, found = eigenvalues(Paths(Model(scene)))
    sigma = np.linalg.svd(np.array(scene.kernel), compute_uv=False)
    np.testing.assert_allclose(found[0, 0].real, 0, atol=1e-12)
    np.testing.assert_allclose(np.sort(np.abs(found[0, 0].imag)), np.sort(np.repeat(sigma, 2)))


@pytest.mark.parametrize("name", EVERY)
def test_the_arrows_are_what_the_first_layer_does(name):
    """y moves by them: by h, or by h² where a velocity has to be gained first."""
    model = Model(replace(EVERY[name], step_size=1e-4, depth=2))
    found = arrows(model, model.y0.numpy())
    if model.scene.field == "double_hamiltonian":
        assert found is None
        return
    assert found is not None
    words, rates = found
    assert (np.linalg.norm(rates, axis=-1) > 1e-3).all()
    moved = (Paths(model).y[2] - Paths(model).y[0]).astype(float)
    h, method = model.scene.step_size, model.scene.integrator
    # Of y'' h² the first of two layers adds 1, or ½ after half a kick, and the second 1 more than it;
    # Euler's first one only pushes z, and RK4 takes ½ (2 h)² y'' of both.
    kicked = {"full": 3, "half": 2}[model.scene.start]
    factor = 2 * h if words == "y′" else h**2 * {"euler": 1, "rk4": 2}.get(method, kicked)
    apart = np.linalg.norm(moved - factor * rates, axis=-1)
    assert (apart < 1e-3 * np.linalg.norm(moved, axis=-1)).all()


@pytest.mark.parametrize("name", EVERY)
def test_the_bound_of_a_verdict_is_that_of_the_library(name):
    scene = replace(EVERY[name], **CHANGING)
    model = Model(scene)
    wanted = kn.step_bound(model.integrator, model.resolved, model.controls, scene.step_size)
    assert Picture(scene).verdict.step_bound == pytest.approx(wanted.step_size, rel=1e-12)


@pytest.mark.parametrize("bias", [0.7, -2.0])
def test_arrows_under_a_bias_are_second_differences(bias):
    scene = replace(EVERY["verlet-hamiltonian-half"], bias=((bias, bias),))
    model = Model(replace(scene, step_size=1e-4, depth=2))
    _, rates = arrows(model, model.y0.numpy())
    y = Paths(model).y.astype(float)
    # y moves by h f(u) in every layer, too; what is left of two layers is y'' h².
    second = (y[2] - 2 * y[1] + y[0]) / 1e-8
    np.testing.assert_allclose(second, rates, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["verlet-hamiltonian-half", "leapfrog-symmetric-half", "verlet-double_hamiltonian-half"]
)
def test_the_energy_of_a_symplectic_method_stays(name):
    _, energy = Paths(Model(replace(EVERY[name], step_size=0.02, depth=2000))).energy
    assert np.abs(energy[1:] / energy[1] - 1).max() < 0.05


def test_euler_gains_energy_and_an_unknown_primitive_falls_back_on_lengths():
    scene = replace(EVERY["euler-hamiltonian-full"], depth=600)
    formula, energy = Paths(Model(scene)).energy
    assert formula == "H(y, z)" and (energy[-1] > 3 * energy[0]).all()
    formula, energy = Paths(Model(replace(scene, activation="softplus", depth=3))).energy
    assert formula == "½ |y|²" and energy.shape == (4, 2)
