"""Assessments: of a recipe before training, of a run after it, as text, JSON and pictures."""

import json

import pytest

from keelnet.experiments.assessments import assess_recipe, assess_run, write
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.runs import train

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


def test_scans_are_replaced_by_noise_and_it_is_said():
    recipe = recipe_named("tumour").with_settings(["width=4,8", "depth=1,1", "patch=16"])
    assessment = assess_recipe(recipe)
    assert "noise of 32³ voxels in place of a scan" in assessment.subject
    assert len(assessment.report.blocks) == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe\.toml"):
        assess_run(tmp_path)
