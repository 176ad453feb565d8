"""Assessments: of a recipe before training, of a run after it, as text, JSON and pictures."""

import json

import pytest
import torch

from keelnet.experiments.assessments import assess_recipe, assess_run, write
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.runs import load_network, train

SHORT = ["depth=3", "final_time=0.5", "epochs=1", "samples=40", "batch=20"]


@pytest.mark.parametrize("architecture", ["residual", "hamiltonian", "antisymmetric"])
def test_a_recipe_is_assessed_before_training_with_an_advised_step(architecture, tmp_path):
    recipe = recipe_named("swiss_roll").with_settings([*SHORT, f"architecture={architecture}"])
    assessment = assess_recipe(recipe, layers=2)
    (block,) = assessment.report.blocks
    assert "before training" in assessment.subject and "8 withheld samples" in assessment.subject
    (line,) = assessment.advice()
    assert line.startswith(block.name) and "step size" in line
    names = write(assessment, tmp_path / "out")
    assert sorted(names) == sorted(each.name for each in (tmp_path / "out").iterdir())
    assert len(names) == 3
    table = json.loads((tmp_path / "out" / "stability.json").read_text())
    assert len(table["blocks"][0]["layers"]) == 2


def test_a_trained_run_is_assessed_and_is_another_network(tmp_path):
    recipe = recipe_named("swiss_roll").with_settings(SHORT)
    for _ in train(recipe, tmp_path / "run"):
        pass
    before, after = assess_recipe(recipe), assess_run(tmp_path / "run")
    assert "trained" in after.subject
    assert before.report.blocks[0].growth != after.report.blocks[0].growth
    assert write(after, tmp_path / "out") == ["stability.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is meant")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_run_of_a_gpu_is_read_on_a_machine_without_one(device, tmp_path):
    for _ in train(recipe_named("swiss_roll").with_settings(SHORT), tmp_path / "run"):
        pass
    before = assess_run(tmp_path / "run")
    recipe = (tmp_path / "run" / "recipe.toml").read_text()
    assert 'device = "cpu"' in recipe
    (tmp_path / "run" / "recipe.toml").write_text(recipe.replace('"cpu"', f'"{device}"'))
    assert next(load_network(tmp_path / "run").parameters()).device.type == "cpu"
    assert assess_run(tmp_path / "run").report == before.report
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here"):
        load_network(tmp_path / "run", device)


def test_scans_are_replaced_by_noise_and_it_is_said():
    recipe = recipe_named("tumour").with_settings(["width=4,8", "depth=1,1", "patch=16"])
    assessment = assess_recipe(recipe)
    assert "noise of 32³ voxels in place of a scan" in assessment.subject
    assert len(assessment.report.blocks) == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe\.toml"):
        assess_run(tmp_path)


def test_a_recipe_of_several_levels_is_judged_as_training_begins():
    assessment = assess_recipe(recipe_named("digits").with_settings(["levels=3"]))
    (block,) = assessment.report.blocks
    assert block.depth == 5 and "the first of 3 levels" in assessment.subject
