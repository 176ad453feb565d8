"""Assessments: of a recipe before training, of a run after it, as text, JSON and pictures."""

import json
import math
import re

import pytest
import torch

import keelnet as kn
from keelnet.experiments import assessments
from keelnet.experiments.assessments import Assessment, assess_recipe, assess_run, write
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


def test_noise_is_of_a_side_that_the_network_can_halve(monkeypatch):
    monkeypatch.setattr(assessments, "SIDE", 4)
    recipe = recipe_named("tumour").with_settings(["width=4,4,4", "depth=1"])
    assert "noise of 8³ voxels" in assess_recipe(recipe).subject


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe\.toml"):
        assess_run(tmp_path)


def test_a_recipe_of_several_levels_is_judged_as_training_begins():
    assessment = assess_recipe(recipe_named("digits").with_settings(["levels=3"]))
    (block,) = assessment.report.blocks
    assert block.depth == 5 and "the first of 3 levels" in assessment.subject


def plain(weight, bias, depth, time):
    theta = {"weight": torch.tensor(weight), "bias": torch.tensor(bias)}
    control = kn.Control({name: value.expand(depth, *value.shape) for name, value in theta.items()})
    field = kn.SingleField(kn.DenseKernel(2))
    return kn.Block(kn.Euler(), field, depth, time, control).double()


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            plain([[0.5, 4.0], [-4.0, -2.0]], [0.0, math.atanh(math.sqrt(0.5))], 5, 0.4),
            "0: advised step size h ≤ 0.06667 (an orientation, since f' may differ between channels), 6 or more layers",
        ),
        (
            plain([[1.0, 4.0], [-4.0, -2.0]], [0.0, 6.0], 20, 1.0),
            "0: no step size is stable (an orientation, since f' may differ between channels)",
        ),
    ],
    ids=["tighter", "none"],
)
def test_no_step_size_is_advised_that_the_report_has_withdrawn(block, words):
    report = kn.analysis.stability(block, torch.zeros(1, 2).double(), layers=[0])
    (line,) = Assessment(report, "").advice()
    assert line.startswith(words)
    bound = min(layer.step_bound for layer in report.blocks[0].layers)
    assert all(float(h) <= bound * 1.001 for h in re.findall(r"h ≤ ([\d.]+)", line))
    assert ("γ" in line) == ("γ" in report.blocks[0].advice)
    table = report.as_table()["blocks"][0]
    assert table["needed_depth"] == (6 if bound > 0 else None)


def test_a_bound_under_a_norm_is_said_of_the_layers_that_were_looked_at():
    torch.manual_seed(0)
    field = kn.SingleField(kn.DenseKernel(4), norm=kn.ChannelNorm())
    block, x = kn.Block(kn.Euler(), field, 8, 1.0), torch.randn(2, 4)
    some, whole = (kn.analysis.stability(block, x, layers=each) for each in ([1], "all"))
    (line,), (all_of_it,) = (Assessment(report, "").advice() for report in (some, whole))
    assert "(of the layers that were looked at)" in line and "(of" not in all_of_it
