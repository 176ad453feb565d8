"""Presets of the source's figures against independent numbers, bit for bit what ``keelnet reproduce`` writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from keelnet.app.message import Picture
from keelnet.app.presets import PRESETS
from keelnet.experiments.seed import READINGS, experiments

# Scenes that grow are what the page is for.
pytestmark = pytest.mark.filterwarnings("ignore::keelnet.propagation.StabilityWarning")

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "seed_experiments.json").read_text()
)
SCENES = {preset.key: preset for preset in PRESETS}
FIGURE_2 = {
    "fig2b": ("euler_N21", "plus"),
    "fig2c": ("euler_N21", "minus"),
    "fig2d": ("euler_N21", "zero"),
    "fig2e": ("antisymmetric_N21", "plus_gamma_0.0"),
    "fig2e-damped": ("antisymmetric_N21", "plus_gamma_0.1"),
    "fig2f": ("antisymmetric_N21", "minus_gamma_0.0"),
    "fig2f-damped": ("antisymmetric_N21", "minus_gamma_0.1"),
}
FIGURE_3 = [key for key in SCENES if key.startswith("fig3")]


def paths_of(key):
    return Picture(SCENES[key].scene, SCENES[key].plane).paths


@pytest.mark.parametrize("key", FIGURE_2)
def test_figure_2_is_that_of_the_source(key):
    group, run = FIGURE_2[key]
    np.testing.assert_allclose(paths_of(key).y, REFERENCE[group][run], rtol=0, atol=1e-12)


def test_figure_2a_begins_where_all_begin():
    assert paths_of("fig2a").y[0].tolist() == REFERENCE["y0"]


@pytest.mark.parametrize("key", FIGURE_3)
def test_figure_3_is_that_of_the_source(key):
    _, depth, reading = key.split("-")
    ends = REFERENCE["verlet"][f"{depth}_full"]
    paths = paths_of(key)
    assert paths.z is not None
    np.testing.assert_allclose(paths.y[-1], ends[reading], rtol=0, atol=1e-11)
    np.testing.assert_allclose(paths.z[-1], ends[READINGS[reading]], rtol=0, atol=1e-11)


def test_the_page_and_reproduce_give_the_same_numbers():
    wanted = experiments()["euler_N21/plus"].run().y
    np.testing.assert_array_equal(paths_of("fig2b").y, wanted)


@pytest.mark.parametrize(
    ("key", "level"),
    [
        ("fig2b", "unstable"),
        ("fig2c", "dissipative"),
        ("fig2d", "unstable"),
        ("fig2e", "unstable"),
        ("auto-1000", "marginal"),
        ("plus-verlet", "marginal"),
        ("hamiltonian-euler", "unstable"),
        ("resonance", "unstable"),
        ("smooth", "marginal"),
        *((key, "marginal") for key in FIGURE_3),
    ],
)
def test_the_verdict_is_the_one_that_the_title_promises(key, level):
    assert Picture(SCENES[key].scene).verdict.level == level


def test_the_spiral_grows_by_what_its_hint_says():
    preset = SCENES["zero-1000"]
    rate = Picture(preset.scene).verdict.amplification
    assert f"{rate:.5f} a layer is {rate**preset.scene.depth:.0f} in 1000" in preset.hint


@pytest.mark.parametrize("key", ["plus-verlet", "fig3-N1000-y_in_R2", "fig3-N20-y_in_R2"])
def test_a_stable_verdict_does_not_hide_how_far_differences_drift(key):
    verdict = Picture(SCENES[key].scene).verdict
    rate = verdict.grown ** (1 / SCENES[key].scene.depth)
    said = f"{rate:.4g} a layer: paths drift apart" in verdict.what
    assert said == (verdict.grown > 2) and rate < 1.05
