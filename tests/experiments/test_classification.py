"""Tasks of classification: what they are judged by, and that every recipe of them can be begun."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from keelnet.experiments.classification import KINDS, Classification, TwoClasses
from keelnet.experiments.problems import network_of, problem
from keelnet.experiments.recipes import RECIPES, WHOLE, recipe_named
from keelnet.experiments.runs import load_run, train
from keelnet.experiments.table import ARCHITECTURES

# Smaller than the recipes are: their few layers make steps that are larger than antisymmetric ones may be.
pytestmark = pytest.mark.filterwarnings("ignore:no damping", "ignore:.*at step size .* grows")

PLANES = ("ellipses", "swiss_roll", "peaks")
SMALL = {"width": 4, "depth": 2, "epochs": 1, "batch": 500}


class Inside(nn.Module):
    """Class 0 within the unit circle of (x, y / 0.4), else class 1: right for every ellipse."""

    def forward(self, x):
        outside = x[:, 0] ** 2 + (x[:, 1] / 0.4) ** 2 - 1
        return torch.stack([-outside, outside], dim=1)


def test_every_recipe_on_one_label_an_input_has_its_task():
    assert set(KINDS) == set(WHOLE) == {name for name in RECIPES if RECIPES[name].data in KINDS}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("data", ["digits", *PLANES, "fashion_mnist", "cifar100"])
def test_every_recipe_has_a_network_of_every_architecture(data, architecture):
    recipe = replace(recipe_named(data), architecture=architecture)
    kind, _ = KINDS[data]
    network = network_of(recipe)
    # Small images will do where levels halve the resolution.
    x = torch.zeros(2, kind.inputs, *(8,) * kind.dim)
    assert network(x).shape == (2, kind.outputs)


@pytest.mark.parametrize("name", PLANES)
def test_a_run_leaves_scores_and_a_picture(tmp_path, name):
    list(train(replace(recipe_named(name), **SMALL), tmp_path / "run"))
    scores = load_run(tmp_path / "run").scores
    assert 0 <= scores["test_accuracy"] <= 1 and scores["growth"] > 0
    assert list(scores["accuracy_under_noise"]) == ["0.05", "0.1", "0.2"]
    assert (tmp_path / "run" / "decisions.png").read_bytes().startswith(b"\x89PNG")


def test_the_rule_that_is_right_is_found_right_and_noise_makes_it_err():
    task = problem(replace(recipe_named("ellipses"), **SMALL)).task
    assert isinstance(task, Classification)
    assert task.validated(Inside()) == {"accuracy": 1.0}
    under = [task._under_noise(Inside(), noise) for noise in (0.0, 0.1, 0.5, 5.0)]
    assert under[0] == 1 and under == sorted(under, reverse=True) and 0.4 < under[-1] < 0.7
    assert task._under_noise(Inside(), 0.1) == under[1], "the same noise for every network"


def test_accuracy_on_the_test_set_is_of_the_test_set():
    task = problem(replace(recipe_named("swiss_roll"), **SMALL)).task

    class Always(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    x, _ = task.samples.test
    task.samples = replace(task.samples, test=(x[:10], torch.tensor([1] * 7 + [0] * 3)))
    assert task._accuracy(Always(), task.samples.test) == pytest.approx(0.7)


def test_fewer_samples_can_be_asked_for():
    recipe = replace(recipe_named("peaks"), **SMALL).with_settings(["samples=50", "batch=50"])
    task = problem(recipe).task
    assert len(task.samples.training[0]) == 50 and len(task.samples.validation[0]) == 1000
    with pytest.raises(ValueError, match=r"between 5 .one a class. and the 4000"):
        problem(replace(recipe, samples=4))
    with pytest.raises(
        ValueError,
        match="^batch must lie between 1 and the 50 training samples, got 64; use batch=50",
    ):
        problem(replace(recipe, batch=64))
    for name, key in (("tissue", "samples=50"), ("qtips", "samples=50"), ("peaks", "folder=here")):
        with pytest.raises(ValueError, match=r"is a setting of recipes on"):
            recipe_named(name).with_settings([key])


def write_idx(folder: Path) -> None:
    """Sixty images that their brightness gives away, and twenty to test."""
    for part, count in (("train", 240), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.repeat(25 * labels, 784).reshape(count, 28, 28).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())


def test_image_files_are_trained_on(tmp_path):
    write_idx(tmp_path)
    recipe = replace(recipe_named("mnist"), folder=str(tmp_path), epochs=2)
    recipe = replace(recipe, width=(4, 8), depth=1, batch=20, samples=100)
    list(train(recipe, tmp_path / "run"))
    scores = load_run(tmp_path / "run").scores
    assert {"validation_accuracy", "test_accuracy", "growth"} <= set(scores)
    assert list(scores["accuracy_under_noise"]) == ["0.25", "0.5", "1"]


def test_missing_data_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="downloads nothing"):
        next(train(recipe_named("cifar10"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("architecture", ["hamiltonian", "antisymmetric"])
def test_stable_networks_learn_the_ellipses(architecture):
    """Some seconds of a smaller network; guessing gives ½, a straight line no more than 0.6."""
    recipe = replace(recipe_named("ellipses"), architecture=architecture, depth=8, epochs=12)
    recipe = replace(recipe, final_time=2.0)
    made = problem(recipe)
    assert isinstance(made.task, TwoClasses)
    from keelnet.learning.descent import descend

    generator = torch.Generator().manual_seed(0)
    steps = descend(
        made.network,
        made.objective,
        made.task.source,
        made.scheme.levels[0],
        made.task.validated,
        generator,
    )
    assert max(step.scores["accuracy"] for step in steps) > 0.9
