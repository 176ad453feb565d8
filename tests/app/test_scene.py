"""Scenes: a permalink gives the scene back, and what cannot be shown is refused with the reason."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import EVERY, FIRST

from keelnet.app.model import Model
from keelnet.app.presets import PRESETS
from keelnet.app.scene import LARGEST, MOST_LAYERS, SQUARE, Scene

NUMBERS = st.floats(-LARGEST, LARGEST)
POSITIVE = st.floats(1e-9, LARGEST)


def again(scene):
    return Scene.from_query(dict(parse_qsl(scene.as_query())))


@given(
    kernel=st.tuples(*[st.tuples(NUMBERS, NUMBERS)] * 2),
    features=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12),
    damping=st.none() | st.floats(0, LARGEST),
    step_size=POSITIVE,
    depth=st.integers(1, MOST_LAYERS),
    period=POSITIVE,
)
def test_a_query_gives_every_number_back(features, **numbers):
    scene = replace(FIRST, features=tuple(features), **numbers)
    assert again(scene) == scene


@pytest.mark.parametrize("name", EVERY)
def test_a_query_gives_every_choice_back(name):
    assert again(EVERY[name]) == EVERY[name]


def test_presets_have_keys_of_their_own_and_can_be_linked_to():
    assert len({preset.key for preset in PRESETS}) == len(PRESETS) >= 20
    for preset in PRESETS:
        assert again(preset.scene) == preset.scene
        assert preset.hint and preset.title


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"step_size": "0"}, "step size h must be a finite number above 0, got 0"),
        ({"step_size": "nan"}, "step size h must be a finite number above 0, got nan"),
        ({"step_size": "inf"}, "above 0, got inf"),
        ({"kernel": "nan,1;2,3"}, "kernel entry 1, 1 must be a finite number"),
        ({"kernel": "1,x;2,3"}, "kernel must be a number, got 'x'"),
        ({"kernel": "1,;2,3"}, "kernel must be a number, got ''"),
        ({"kernel": "1,2;3"}, "2 or 3 rows and 2 or 3 columns"),
        ({"kernel": ""}, "2 or 3 rows and 2 or 3 columns"),
        ({"kernel": "1,2,3;4,5,6"}, "plain field needs a square kernel, got 2 × 3"),
        ({"bias": "1,2,3"}, "bias of the plain field and this kernel has 1 × 2 numbers, got 3"),
        ({"bias": "1,nan"}, "bias entry 1, 2 must be a finite number"),
        ({"bias": "1,"}, "bias must be a number, got ''"),
        ({"depth": "10000000"}, "depth must lie between 1 and 10,000 layers, got 10,000,000"),
        ({"depth": "0"}, "depth must lie between 1"),
        ({"depth": "2.5"}, "depth must be a whole number"),
        ({"depth": "nan"}, "depth must be a whole number"),
        ({"depth": "10000", "cloud": "900"}, "more than 2000000 points"),
        ({"cloud": "1001"}, "cloud must lie between 0 and 1,000 points"),
        ({"features": ""}, "there is no feature"),
        ({"features": "1,2,3"}, "feature 1 must have two coordinates, got 3"),
        ({"features": "0,inf"}, "feature 1 must be a finite number"),
        ({"features": ";".join(["1,1"] * 13)}, "number of features must lie between 0 and 12"),
        ({"damping": "-1"}, "damping γ must lie between 0"),
        ({"strength": "2"}, "strength must lie between 0 and 1"),
        (
            {"period": "1e-300", "variation": "smooth"},
            "period must lie between 1e-09 and 1,000,000",
        ),
        ({"period": "0"}, "period must be a finite number above 0"),
        ({"integrator": "heun"}, "integrator must be one of euler, rk4"),
        ({"integrator": "verlet"}, "verlet does not move the plain field"),
        ({"activation": "tan"}, "activation must be one of tanh"),
    ],
)
def test_what_cannot_be_shown_is_refused(query, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Scene.from_query(query)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kernel", [FIRST.kernel, ((0.6, -1.1), (0.4, 0.3), (0.2, 0.1))])
def test_a_bias_is_that_of_the_library(name, kernel):
    """u is added before f in every layer, and a query gives it back."""
    if len(kernel) == 3 and EVERY[name].field in SQUARE:
        return
    scene = replace(EVERY[name], kernel=kernel)
    count, width = scene.biases
    assert Model(replace(scene, bias=((0.0,) * width,) * count)).controls.keys() == (
        Model(scene).controls.keys()
    )
    scene = replace(scene, bias=tuple((0.3 + i,) * width for i in range(count)))
    assert again(scene) == scene
    model = Model(scene)
    theta = {key: value[0] for key, value in model.controls.items()}
    bare = {key: value for key, value in theta.items() if not key.startswith("bias")}
    zero = [torch.zeros(1, n, dtype=torch.float64) for n in scene.channels if n]
    moved = model.resolved.rates(tuple(zero), theta)
    still = model.resolved.rates(tuple(zero), bare)
    assert all(float(part.abs().max()) == 0 for part in still)
    assert all(float(part.abs().max()) > 0.05 for part in moved)


def test_names_that_are_the_pages_own_are_left_alone():
    assert Scene.from_query({"layer": "7", "across": "1"}) == Scene()


@pytest.mark.parametrize("variation", ["smooth", "abrupt"])
def test_a_kernel_that_changes_swings_about_itself(variation):
    scene = replace(FIRST, variation=variation, strength=0.5, period=2.0, depth=40)
    factors = Model(scene).factors
    assert abs(float(factors.mean()) - 1) < 1e-12  # four whole periods
    assert 1.48 < float(factors.max()) <= 1.5 and 0.5 <= float(factors.min()) < 0.52
    assert (len(factors.unique()) == 2) == (variation == "abrupt")


def test_a_cloud_fills_its_disc_and_leaves_the_features():
    y0 = Model(replace(FIRST, cloud=500, spread=2.0)).y0
    assert y0.shape == (502, 2) and y0[:2].tolist() == [list(each) for each in FIRST.features]
    radii = y0[2:].norm(dim=1)
    assert float(radii.max()) <= 2 and abs(float((radii < 1).double().mean()) - 0.25) < 0.01
