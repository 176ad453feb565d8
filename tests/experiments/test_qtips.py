"""The task of the Q-tips: any network with a decision a pixel, judged on rods alone."""

import json
from dataclasses import replace

import pytest
import torch

from keelnet.experiments.problems import TASKS, network_of, problem
from keelnet.experiments.recipes import RECIPES, recipe_named
from keelnet.experiments.runs import load_network, load_run, train
from keelnet.learning.validation import predicted
from keelnet.networks.network import blocks_of

QTIPS = recipe_named("qtips")
SMALL = replace(
    QTIPS, width=4, depth=2, final_time=1.0, epochs=1, batch=256, size=14, length=7.0, rods=2
)
PER_PIXEL = [name for name, recipe in RECIPES.items() if TASKS[recipe.data].per_pixel]
PER_IMAGE = ("residual", "antisymmetric", "hamiltonian", "parabolic", "second_order")


def perfect(labels):
    return torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).double()


@pytest.fixture(scope="module")
def task():
    return problem(SMALL).task


def test_only_rods_are_scored_and_background_is_no_answer_for_them(task):
    labels = task.samples.validation[1]
    right = task.score(perfect(labels), labels)
    assert right == {"accuracy": 1.0, "mean_dice": 1.0, "none": 1.0, "one": 1.0, "two": 1.0}
    # A network that sees rods everywhere loses Dice, not accuracy.
    assert task.score(perfect(labels.clamp(min=1)), labels)["accuracy"] == 1.0
    assert task.score(perfect(labels.clamp(min=1)), labels)["mean_dice"] < 1
    nothing = task.score(perfect(torch.zeros_like(labels)), labels)
    assert nothing["accuracy"] == 0 and nothing["mean_dice"] == 0
    one = task.score(perfect(labels.clamp(max=1)), labels)["accuracy"]
    assert one == pytest.approx(float((labels[labels > 0] == 1).double().mean()))


def test_a_run_leaves_scores_and_an_overlay(tmp_path):
    list(train(SMALL, tmp_path / "run"))
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores["validation_dice"]) == {"none", "one", "two"}
    best = load_run(tmp_path / "run").history[0]["scores"]
    assert scores["validation_accuracy"] == best["accuracy"]
    assert scores["validation_dice_mean"] == best["mean_dice"]
    assert (tmp_path / "run" / "overlay.png").read_bytes().startswith(b"\x89PNG")
    x, labels = problem(SMALL).task.samples.validation
    found = predicted(load_network(tmp_path / "run"), x, 256).argmax(1)
    share = float((found == labels)[labels > 0].double().mean())
    assert share == pytest.approx(scores["validation_accuracy"])


def test_the_recipe_learns_what_one_end_does_not_tell(tmp_path):
    """The shortest rods, some seconds; a guess from one end is right half of the time, on 1200 rods."""
    recipe = replace(QTIPS, depth=8, final_time=4.0, length=6.0, epochs=3)
    *_, last = train(recipe, tmp_path / "run")
    assert last.scores["accuracy"] > 0.58


@pytest.mark.parametrize("architecture", PER_IMAGE)
def test_every_architecture_can_be_asked_for_a_decision_a_pixel(architecture):
    recipe = replace(SMALL, architecture=architecture, width=4)
    made = problem(recipe)
    logits = made.network(made.task.example)
    assert logits.shape == (1, 4, 14, 14)
    assert [block.depth for block in blocks_of(made.network)] == [2]


@pytest.mark.parametrize("name", PER_PIXEL)
def test_other_tasks_of_pixels_take_one_width_alike(name):
    recipe = replace(recipe_named(name), architecture="antisymmetric", folds=0, final_time=1.0)
    network = network_of(replace(recipe, width=4, depth=2))
    dim = blocks_of(network)[0].field.kernel.dim
    x = torch.zeros(1, network.opening.kernel.inputs, *(8,) * dim)
    assert network(x).shape[2:] == x.shape[2:]
    with pytest.raises(ValueError, match=r"needs segmenter \(or one width\)"):
        network_of(replace(recipe, width=(4, 8), depth=2))


def test_the_seed_draws_the_rods_and_the_settings_shape_them():
    one, again, other = (problem(replace(SMALL, seed=seed)).task for seed in (1, 1, 2))
    assert torch.equal(one.example, again.example)
    assert not torch.equal(one.example, other.example)
    assert problem(replace(SMALL, size=20)).task.example.shape == (1, 1, 20, 20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["length=16", "size=20"], "need size 21 or more"),
        (["length=3"], "length must be at least 6"),
        (["length=nan"], "length must be at least 6"),
        (["size=100000"], "size must be at most 512"),
        (["rods=0"], "rods must be at least 1"),
        (["batch=513"], "use batch=512"),
        (["width=15"], "even"),
        (["depth=0"], "depth"),
        (["width=8,16"], "one width"),
        (["architecture=segmenter", "width=8,16", "depth=2", "size=23"], "divisible"),
        (["patch=8"], "patch is a setting of recipes on scans"),
        (["folds=1"], "folds is a setting of the segmenter"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        next(train(QTIPS.with_settings(settings), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_of_rods_are_refused_elsewhere():
    with pytest.raises(ValueError, match="length is a setting of recipes on rods"):
        replace(recipe_named("digits"), length=8.0)
