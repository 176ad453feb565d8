"""Verdicts: what they say is what was measured, whatever f does on the way."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import EVERY

import keelnet as kn
from keelnet.app.message import Picture
from keelnet.app.presets import PRESETS
from keelnet.app.scene import Scene
from keelnet.app.spectra import steepest
from keelnet.propagation.integrators import numbers

# Scenes that grow are what the page is for.
pytestmark = pytest.mark.filterwarnings("ignore::keelnet.propagation.StabilityWarning")

SCENES = {preset.key: preset.scene for preset in PRESETS}
RELU = Scene(
    kernel=((1, -3), (3, -2)), activation="relu", depth=200, features=((0.1, 0.1), (0.1, 0.2))
)
TURNS = Scene(
    integrator="verlet",
    field="hamiltonian",
    kernel=((2, -2), (0, 2)),
    depth=2000,
    features=((3, 2), (-2, 3)),
)


def verdict(scene):
    return Picture(scene).verdict


@pytest.mark.parametrize("depth", [20, 200])
def test_an_eigenvalue_that_leaves_the_region_on_the_way_is_seen(depth):
    """relu is 0 in one channel: diag(f') K has the eigenvalue 1, K has none."""
    found = verdict(replace(RELU, depth=depth))
    assert found.level == "unstable" and "shrink" not in found.what
    assert found.along == pytest.approx(1.1) and "enlarges up to 1.1 times" in found.why
    assert found.amplification < 1 and "f′ differs between channels" in found.why


def test_every_feature_is_looked_at():
    """relu shuts other channels at each: diag(f') K with K = diag(1, −2)."""
    scene = replace(RELU, kernel=((1, 0), (0, -2)), features=((-1, -1), (-1, 1), (1, 1)), depth=1)
    _, values = Picture(scene).eigenvalues
    np.testing.assert_allclose(np.sort(values[0].real), [[-2, 0], [0, 0], [0, 1]])


def test_a_turn_past_a_saddle_is_not_called_the_edge_alone():
    scene = replace(
        TURNS, activation="sin", kernel=((1, 0), (0, 1)), features=((3.1, 0.1), (3, 0.1)), depth=300
    )
    found = verdict(scene)
    assert "Nothing explodes" not in found.what and "saddle" in found.what
    assert found.along > 1.1 and "enlarges up to 1.105 times" in found.why


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(*[st.tuples(*[st.floats(-3, 3)] * 2)] * 2),
    bias=st.tuples(*[st.floats(-2, 2)] * 2),
    activation=st.sampled_from(["tanh", "relu", "sin", "silu", "identity"]),
    field=st.sampled_from(["plain", "symmetric", "antisymmetric"]),
)
def test_what_is_called_dissipative_has_not_exploded(kernel, bias, activation, field):
    scene = Scene(
        field=field,
        kernel=kernel,
        bias=(bias,),
        activation=activation,
        damping=0.3,
        depth=150,
        features=((0.1, 0.1), (0.3, -0.2)),
    )
    found = verdict(scene)
    if found.level == "dissipative":
        assert found.grown <= 1.001
    if "shrink slowly" in found.what or "fall together" in found.what:
        assert found.apart[1] <= 1


@pytest.mark.parametrize("name", EVERY)
def test_all_eigenvalues_hold_the_extreme_ones_of_the_library(name):
    model = Picture(EVERY[name]).paths.model
    spectrum = numbers(model.integrator.adapted(model.resolved).spectrum(model.controls))
    extreme = model.integrator.amplification(0.2, spectrum).max()
    found = model.integrator.amplification(0.2, steepest(model)).max()
    assert found >= extreme - 1e-9
    if extreme > 1 + 1e-9:
        assert found == pytest.approx(extreme, rel=1e-9)


def test_a_bound_of_eigenvalues_is_not_said_of_differences():
    """The first layer of Fig. 2(c) leaves more than 0.8 of a difference: K is not normal, f' is not 1."""
    picture = Picture(SCENES["fig2c"])
    assert 10 ** picture.growth.largest[1].max() > 0.9
    assert "a layer leaves at most" not in picture.verdict.why
    assert "f′ at its largest" in picture.verdict.why and "|R(h λ)| ≤ 0.8" in picture.verdict.why


@pytest.mark.parametrize(
    ("changes", "words", "never"),
    [
        ({"depth": 1000, "features": ((0.1, 0.1),)}, "is lost", "told apart"),
        ({"depth": 21}, "fall together", "told apart"),
        ({"kernel": ((-0.1, 0.0), (0.0, -0.1))}, "shrink slowly", "lost"),
    ],
    ids=["one-feature", "pairs", "slow"],
)
def test_a_dissipative_sentence_follows_from_what_is_left(changes, words, never):
    found = verdict(replace(SCENES["fig2c"], **changes))
    assert found.level == "dissipative" and words in found.what and never not in found.what


@pytest.mark.parametrize(
    "changes",
    [
        {"integrator": "rk4", "field": "hamiltonian", "kernel": ((12.0, 0.0), (0.0, 0.001))},
        {"field": "symmetric", "kernel": ((3.0, 0.0), (0.0, 0.001))},
    ],
    ids=["rk4", "symmetric"],
)
def test_a_mode_that_stays_is_not_called_dissipative(changes):
    found = verdict(Scene(activation="identity", **changes))
    assert found.level == "marginal" and "inside or on the edge" in found.why
    assert "nothing dies out" not in found.what


SHEARED = Scene(kernel=((-0.1, 100.0), (0.0, -0.1)), activation="identity", depth=3)


@pytest.mark.parametrize(
    ("scene", "level", "words"),
    [
        (SHEARED, "marginal", "but not yet: after 3 layers a difference is up to 29.4 times"),
        (
            replace(SHEARED, kernel=((-0.1, 1000.0), (0.0, -0.1)), depth=100),
            "unstable",
            "times as large",
        ),
    ],
)
def test_differences_that_eigenvectors_enlarge_are_not_called_dissipative(scene, level, words):
    found = verdict(scene)
    assert found.level == level and "eigenvectors" in found.why
    assert words in found.what and "shrink" not in found.what


# Under RK4 ω of middle size may lie on the edge while the largest lies inside; the library knows the largest.
AGREE = {
    name: scene for name, scene in EVERY.items() if "rk4" not in name or "hamil" not in name
} | {
    "sheared, 3 layers": SHEARED,
    "sheared, 6 layers": replace(SHEARED, kernel=((-0.1, 300.0), (0.0, -0.1)), depth=6),
    "double eigenvalue": Scene(kernel=((0, 1), (0, 0)), step_size=1, depth=10_000),
    "turns": TURNS,
}


@pytest.mark.parametrize("scene", AGREE.values(), ids=AGREE)
def test_the_page_and_the_report_say_the_same_of_a_network(scene):
    picture = Picture(scene)
    model = picture.paths.model
    control = kn.Control(dict(model.controls))
    time = scene.depth * scene.step_size
    block = kn.Block(model.integrator, model.field, scene.depth, time, control).double()
    (row,) = kn.analysis.stability(block, model.y0).blocks
    assert picture.verdict.level == row.verdict.split(":")[0]


def test_an_unstable_spectrum_does_not_contradict_its_number():
    scene = Scene(
        kernel=((-2, 0), (0, -2)), step_size=1.5, depth=60, features=((0.1, 0.1), (-0.2, 0.3))
    )
    found = verdict(scene)
    assert found.level == "unstable" and "6.5 · 10⁻⁴⁰ times" in found.what
    assert "by its spectrum" in found.what and "go on growing" not in found.what
    assert "more layers go on growing" in verdict(SCENES["fig2d"]).what


@pytest.mark.parametrize("key", ["turns", "fig2c", "fig2d", "auto-1000"])
def test_a_kernel_that_swings_by_nothing_is_constant(key):
    scene = {**SCENES, "turns": TURNS}[key]
    assert verdict(replace(scene, variation="smooth", strength=0)) == verdict(scene)
    assert key != "turns" or verdict(scene).grown > 100


def test_no_step_bound_of_0_is_said_to_hold():
    found = verdict(replace(SCENES["fig2d"], step_size=0.001))
    assert found.level == "marginal" and found.step_bound == 0
    assert "h = 0" not in found.why
    assert "to within 5e-07 a layer, which 21 layers do not show" in found.why


@pytest.mark.parametrize("rounding", [0, 3e-8j])
def test_a_double_eigenvalue_has_a_step_bound(rounding):
    """λ = −3 twice, without a second eigenvector: computed, it is −3 ± √ε i; 2 / √3."""
    values = np.array([-3 + rounding, -3 - rounding])
    np.testing.assert_allclose(kn.Leapfrog().largest_steps(values), 2 / math.sqrt(3), rtol=1e-6)
    found = verdict(Scene(integrator="leapfrog", kernel=((-1, 4), (-1, -5))))
    assert "h² λ" in found.why and "h λ" not in found.why
    assert "it holds up to h = 1.155" in found.why


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, 1.0),
        ({"step_size": 0.5}, 1.0),
        ({"step_size": 1.5, "depth": 3}, 1.0),
        ({"kernel": ((1, 0), (0, 1))}, math.inf),
    ],
)
def test_the_bound_under_the_least_damping_is_that_of_all_steps(changes, bound):
    found = verdict(replace(SCENES["auto-1000"], **{"depth": 20, **changes}))
    assert found.step_bound == pytest.approx(bound)
    if changes.get("step_size") == 1.5:
        assert (
            found.level == "unstable" and "h = 1.5 exceeds the step bound 1 of Euler" in found.why
        )


@pytest.mark.parametrize("features", [((0.1, 0.1), (0.0, 0.5)), ((0.1, 0.1),)])
def test_growth_on_the_edge_is_not_denied(features):
    found = verdict(Scene(kernel=((0, 1), (0, 0)), step_size=1, depth=10_000, features=features))
    assert found.grown > 1000 and found.level == "unstable"
    assert "on the edge" in found.why and "holds" not in found.why
    assert "Nothing explodes" not in found.what and "phase" not in found.what


def test_a_resonance_that_has_not_exploded_yet_is_called_so():
    found = Picture(replace(SCENES["resonance"], depth=420)).verdict
    assert found.level == "marginal" and 10 < found.grown < 1e3
    assert "parametric resonance" in found.why and "holds up to" not in found.why
    assert not found.what.startswith("Stable") and "double eigenvalue" not in found.what
