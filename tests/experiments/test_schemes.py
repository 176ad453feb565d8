"""Schemes: every method trains a recipe to its end, on any number of levels, and goes on where it was cut off."""

from dataclasses import replace

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelnet.experiments.assessments import assess_recipe
from keelnet.experiments.plan import plan
from keelnet.experiments.problems import network_of, problem
from keelnet.experiments.recipes import CURVED, Recipe, recipe_named
from keelnet.experiments.runs import load_network, load_run, train
from keelnet.experiments.schemes import METHODS, SOLVERS, TANGENTS, coarsest, scheme_of
from keelnet.experiments.table import Sweep
from keelnet.learning.multilevel import refine
from keelnet.learning.validation import predicted

pytestmark = pytest.mark.usefixtures("unrendered")

EVERY = (*METHODS, *SOLVERS)
SMALL = ("width=4", "depth=4", "samples=40", "inner=4", "classifier_tikhonov=1e-2", "batch=0")
SEGMENTER = ("architecture=segmenter", "width=4,4", "depth=2,2", "rise=2", "knots=none")


def small(method, *more):
    settings = [
        each for each in SMALL if not each.startswith("inner") or method not in ("adam", "sgd")
    ]
    return recipe_named("ellipses").with_settings(
        [*settings, f"method={method}", "epochs=4", *more]
    )


def test_every_method_that_a_recipe_can_name_is_there():
    assert set(CURVED) == set(SOLVERS)
    assert {name for name in EVERY if small(name).method == name} == set(EVERY)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("method", EVERY)
def test_a_run_ends_with_the_network_of_its_recipe(method, levels, tmp_path):
    recipe = small(method, f"levels={levels}")
    steps = list(train(recipe, tmp_path / "run"))
    run = load_run(tmp_path / "run")
    assert run.recipe == recipe and len(run.history) == len(steps) <= 4
    x, labels = problem(recipe).task.samples.validation
    found = predicted(load_network(tmp_path / "run"), x, 100).argmax(dim=1)
    assert run.scores["validation_accuracy"] == pytest.approx(
        float((found == labels).float().mean())
    )
    if levels > 1:
        assert run.history[0]["details"]["depth"] == 4 / 2 ** (levels - 1)
        assert run.history[-1]["details"]["depth"] == 4


@pytest.mark.parametrize("method", ["adam", "varpro", "lbfgs"])
def test_a_run_on_levels_goes_on_to_the_same_weights(method, tmp_path):
    recipe = small(method, "levels=2")
    for _ in train(recipe, tmp_path / "whole"):
        pass
    for cut in (1, 2, 3):
        folder = tmp_path / f"cut-{cut}"
        steps = train(recipe, folder)
        for _ in range(cut):
            next(steps)
        steps.close()
        for _ in train(recipe, folder, resume=True):
            pass
        one, other = (load_network(each).state_dict() for each in (tmp_path / "whole", folder))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("tangent", TANGENTS)
def test_every_tangent_can_be_chosen(tangent, tmp_path):
    steps = list(train(small("gauss_newton", f"tangent={tangent}"), tmp_path / "run"))
    terms = [sum(step.terms.values()) for step in steps]
    assert terms == sorted(terms, reverse=True)


def test_the_first_level_has_fewer_layers_and_knots():
    recipe = small("adam", "levels=3", "depth=8", "knots=4")
    first = coarsest(recipe)
    assert (first.depth, first.knots) == (2, 1)
    assert coarsest(replace(recipe, levels=1)) == replace(recipe, levels=1)
    several = recipe_named("mnist5k").with_settings(["levels=2"])
    assert coarsest(several).depth == 2
    assert network_of(several).stages


@st.composite
def recipes(draw):
    """Of one width or several, with as many layers and knots as their levels can halve."""
    levels, blocks = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    factor = 2 ** (levels - 1)
    width = 4 if blocks == 1 else (4,) * blocks

    def layers(least, count):
        numbers = st.integers(least, 2).map(lambda each: each * factor)
        return draw(numbers | st.tuples(*[numbers] * count))

    knots = draw(st.none() | st.integers(1, 3).map(lambda each: each * factor))
    if draw(st.booleans()):
        changes = {"depth": factor * draw(st.integers(1, 2)), "architecture": "hamiltonian"}
        return replace(recipe_named("mnist5k"), width=width, knots=knots, levels=levels, **changes)
    changes = {"depth": layers(1, blocks), "rise": layers(0, blocks - 1)}
    return replace(recipe_named("tissue"), width=width, knots=knots, levels=levels, **changes)


@settings(deadline=None, max_examples=60)
@given(recipes())
def test_the_first_level_refined_is_the_network_of_the_recipe(recipe):
    first = coarsest(recipe)
    network = network_of(first)
    for _ in range(recipe.levels - 1):
        refine(network)
    wanted = network_of(recipe)
    wanted.load_state_dict(network.state_dict())
    assert len(list(network.parameters())) == len(list(wanted.parameters()))
    assert (type(first.depth), type(first.rise)) == (type(recipe.depth), type(recipe.rise))


def test_a_run_on_levels_with_layers_on_the_way_up_is_loaded(tmp_path):
    recipe = recipe_named("qtips").with_settings(
        [*SEGMENTER, "size=12", "length=6", "rods=1", "batch=128", "epochs=2", "levels=2"]
    )
    for _ in train(recipe, tmp_path / "run"):
        pass
    network = load_network(tmp_path / "run")
    assert [block.depth for block in (*network.levels, *network.rises)] == [2, 2, 2]


@pytest.mark.parametrize("width", [4, (4,)])
def test_layers_on_the_way_up_that_there_are_none_of_need_not_be_halved(width):
    recipe = replace(recipe_named("tissue"), width=width, depth=4, rise=1, levels=2)
    assert (coarsest(recipe).depth, coarsest(recipe).rise) == (2, 1)


@pytest.mark.parametrize("begin", [plan, assess_recipe, coarsest], ids=lambda each: each.__name__)
def test_layers_on_the_way_up_that_cannot_be_halved_are_refused_before_anything_is_done(begin):
    recipe = recipe_named("tissue").with_settings(["width=4,4,4", "levels=2", "rise=2,1"])
    with pytest.raises(
        ValueError, match="rise must be divisible by 2 to be trained in 2 levels, got 1"
    ):
        begin(recipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("levels=3", "depth=6"), "depth must be divisible by 4"),
        (("levels=2", "knots=3"), "knots must be divisible by 2"),
        (("levels=0",), "levels must lie between 1 and 16"),
        (("levels=3", "epochs=2"), "epochs must be at least the 3 levels"),
        (("levels=1", "warmup=5"), "warmup must be at least 0 and below 1, got 5"),
        (("levels=2", "warmup=5"), "warmup must be at least 0 and below 1, got 5"),
        (("levels=2", "warmup=-1"), "warmup must be at least 0 and below 1, got -1"),
    ],
)
def test_levels_that_cannot_be_are_refused_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        next(train(small("adam", *settings), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("method=adam", "damping=1"),
            "damping is a setting of gauss_newton, block_descent, varpro",
        ),
        (("method=varpro", "bound=1"), "bound is a setting of adam, sgd, not of varpro"),
        (("method=varpro", "average=0.9"), "average is a setting of adam, sgd, lbfgs"),
        (("momentum=0.5",), "momentum is a setting of sgd, not of adam"),
        (("method=lbfgs", "rate=0.01"), "rate is a setting of adam, sgd, not of lbfgs"),
        (
            ("clip=none", "method=gauss_newton"),
            "clip is a setting of adam, sgd, not of gauss_newton",
        ),
        (("method=block_descent", "decay=0.1"), "decay is a setting of adam, sgd, not of block_d"),
        (("method=varpro", "warmup=0.05"), "warmup is a setting of adam, sgd, not of varpro"),
    ],
)
def test_settings_of_another_method_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        recipe_named("ellipses").with_settings(settings)
    with pytest.raises(ValueError, match="gain is a setting of every architecture but"):
        recipe_named("tissue").with_settings(["gain=2"])
    with pytest.raises(ValueError, match="batch=0"):
        recipe_named("tissue").with_settings(["batch=0"])


@pytest.mark.parametrize("method", ["lbfgs", *SOLVERS])
def test_what_a_recipe_holds_for_adam_waits_beside_other_methods(method):
    """A table may vary the method; it is no sweep of what one method has no use for."""
    paced = recipe_named("ellipses").with_settings(["rate=0.05", "warmup=0.2", "clip=none"])
    recipe = paced.with_settings([f"method={method}"])
    assert recipe == replace(paced, method=method)
    with pytest.raises(ValueError, match=f"rate is a setting of adam, sgd, not of {method}"):
        Sweep.read("rate=0.1,0.2").of(recipe)
    with pytest.raises(ValueError, match="momentum is a setting of sgd, not of adam"):
        Sweep.read("momentum=0.5,0.9").of(replace(paced, momentum=0.9))


def test_a_run_of_an_earlier_version_keeps_what_its_method_made_nothing_of():
    """Its weights are whole, whatever momentum its recipe holds beside adam."""
    old = replace(recipe_named("ellipses"), momentum=0.5)
    assert Recipe.from_toml(tomli_w.dumps(old.as_table())) == old


@pytest.mark.parametrize("schedule", ["cosine", "constant", "steps"])
@pytest.mark.parametrize("levels", [2, 3, 5])
def test_levels_share_one_warm_up_and_one_schedule(schedule, levels):
    recipe = small("adam", f"levels={levels}", f"schedule={schedule}", "epochs=30", "warmup=0.15")
    whole = scheme_of(replace(recipe, levels=1), "accuracy", 40, torch.device("cpu")).levels[0]
    parts = scheme_of(recipe, "accuracy", 40, torch.device("cpu")).levels
    for level, part in enumerate(parts):
        for share in (0.1, 0.37, 0.6, 0.93):
            expected = whole.rate_factor((level + share) / levels)
            assert part.rate_factor(share) == pytest.approx(expected, rel=1e-6, abs=1e-9)
