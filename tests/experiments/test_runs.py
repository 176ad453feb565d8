"""Runs: the folder is whole, repeatable, readable again, and never lost."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from keelnet.data.samples import Share
from keelnet.experiments import problems, runs
from keelnet.experiments.classification import Grey
from keelnet.experiments.problems import problem
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.runs import (
    DivergenceError,
    load_network,
    load_run,
    train,
    weights_as_bytes,
)
from keelnet.learning.processes import Alone
from keelnet.learning.validation import predicted

SMALL = replace(recipe_named("digits"), width=8, depth=3, epochs=2, batch=256)
TISSUE = replace(recipe_named("tissue"), width=(4, 8), depth=(1, 2), epochs=1, batch=24)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return folder, list(train(SMALL, folder))


def test_the_folder_holds_the_run(finished):
    folder, steps = finished
    run = load_run(folder)
    assert run.recipe == SMALL
    assert [line["epoch"] for line in run.history] == [1, 2]
    best = max(step.scores["accuracy"] for step in steps)
    assert run.scores["validation_accuracy"] == best
    assert {item.name for item in folder.iterdir()} == {
        "recipe.toml",
        "history.jsonl",
        "weights.safetensors",
        "scores.json",
        "curves.png",
    }


def test_the_weights_are_those_of_the_best_iterate(finished):
    folder, _ = finished
    task = problem(SMALL).task
    x, labels = task.samples.validation
    logits = predicted(load_network(folder), x, 256)
    assert task.score(logits, labels)["accuracy"] == load_run(folder).scores["validation_accuracy"]


def test_the_same_seed_gives_the_same_weights(finished, tmp_path):
    folder, _ = finished
    list(train(SMALL, tmp_path / "again"))
    list(train(replace(SMALL, seed=1), tmp_path / "other"))
    weights = (folder / "weights.safetensors").read_bytes()
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "weights.safetensors").read_bytes() != weights


def test_strategies_train_alike(finished, tmp_path):
    losses = []
    for strategy in ("store_all", "checkpointed", "reversible"):
        steps = list(train(replace(SMALL, strategy=strategy, epochs=1), tmp_path / strategy))
        losses.append(steps[0].terms["loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_tissue_leaves_scores_by_region_and_an_overlay(tmp_path):
    list(train(TISSUE, tmp_path / "run"))
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores["validation_dice"]) == {"CSF", "GM", "WM"}
    assert set(scores["corrupted_dice"]) == {"CSF", "GM", "WM"}
    values = scores["validation_dice"].values()
    assert scores["validation_dice_mean"] == pytest.approx(sum(values) / 3, abs=1e-6)
    assert (tmp_path / "run" / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_an_existing_run_is_refused_and_unchanged(finished):
    folder, _ = finished
    before = {item.name: item.read_bytes() for item in folder.iterdir()}
    with pytest.raises(ValueError, match="--overwrite"):
        next(train(SMALL, folder))
    assert {item.name: item.read_bytes() for item in folder.iterdir()} == before


def test_overwriting_that_stops_half_way_keeps_the_old_run(tmp_path):
    list(train(replace(SMALL, epochs=1), tmp_path / "run"))
    before = {item.name: item.read_bytes() for item in (tmp_path / "run").iterdir()}
    steps = train(replace(SMALL, seed=5), tmp_path / "run", overwrite=True)
    next(steps)
    steps.close()
    assert {item.name: item.read_bytes() for item in (tmp_path / "run").iterdir()} == before


def test_overwriting_that_was_killed_before_it_had_a_state_begins_anew(tmp_path):
    recipe, run = replace(SMALL, epochs=1), tmp_path / "run"
    list(train(recipe, run))
    code = (
        "import os, pathlib\n"
        "from dataclasses import replace\n"
        "from keelnet.experiments import runs\n"
        "from keelnet.experiments.recipes import Recipe\n"
        "runs.state_as_bytes = lambda state: os.kill(os.getpid(), 9)\n"
        f"[*runs.train({replace(recipe, seed=5)!r}, pathlib.Path({str(run)!r}), True)]\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    left = {item.name for item in (run / ".unfinished").iterdir()}
    assert {"recipe.toml", "weights.safetensors"} <= left and "state.pt" not in left
    with pytest.raises(ValueError, match="holds no interrupted run .* start one without --resume"):
        list(train(recipe, run, resume=True))
    assert load_run(run).recipe == recipe
    list(train(replace(recipe, seed=5), run, overwrite=True))
    assert load_run(run).recipe.seed == 5 and not (run / ".unfinished").exists()


def test_a_run_that_stops_half_way_keeps_its_best_weights(tmp_path):
    steps = train(SMALL, tmp_path / "run")
    next(steps)
    steps.close()
    assert (tmp_path / "run" / "weights.safetensors").stat().st_size > 0
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 1
    with pytest.raises(
        ValueError, match=r"not finished: scores\.json missing; go on with it \(.*--resume"
    ):
        load_run(tmp_path / "run")
    (tmp_path / "run" / "state.pt").unlink()
    with pytest.raises(ValueError, match=r"not finished: scores\.json missing; train again"):
        load_run(tmp_path / "run")


def test_a_run_that_explodes_at_once_says_so_and_leaves_no_folder_in_the_way(tmp_path):
    wild = replace(SMALL, rate=1e30, clip=None, warmup=0.0, architecture="residual")
    with pytest.raises(ValueError, match="became|not finite|number"):
        list(train(replace(wild, strategy="store_all", activation="relu"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("width", [8, (4, 8)])
@pytest.mark.parametrize("architecture", ["residual", "hamiltonian", "second_order"])
def test_whatever_is_no_number_first_is_a_divergence(tmp_path, architecture, width):
    """The objective, the state, features between blocks or the controls: all are of the training, not of its settings."""
    recipe = replace(
        SMALL,
        architecture=architecture,
        activation="relu",
        width=width,
        depth=20,
        rate=1e30,
        clip=None,
        warmup=0.0,
    )
    with pytest.raises(DivergenceError):
        list(train(recipe, tmp_path / "run"))


def test_what_is_refused_while_it_trains_is_no_divergence_and_can_be_gone_on_with(
    tmp_path, monkeypatch
):
    """Neither a setting that cannot work nor a file that has gone; what an overwriting run had stays."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    recipe = replace(SMALL, epochs=3, threads=1)
    steps = train(recipe, run, overwrite=True)
    next(steps)
    shutil.copytree(run / ".unfinished", tmp_path / "kept")  # as a kill would leave it
    steps.close()
    shutil.copytree(tmp_path / "kept", run / ".unfinished")

    def refuse(task, network):
        raise ValueError("a case cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(Grey, "validated", refuse)
        with pytest.raises(ValueError, match="cannot be read") as caught:
            list(train(recipe, run, resume=True))
    assert not isinstance(caught.value, DivergenceError)
    assert [step.epoch for step in train(recipe, run, resume=True)][-1] == 3
    assert load_run(run).recipe == recipe and (run / "notes.txt").is_file()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("swiss_roll", {"products": "bfloat16"}, "hamiltonian on swiss_roll has no products=bfloat16; "),
        ("tumour", {"method": "gauss_newton"}, "convex"),
        ("tissue", {"method": "varpro"}, "ends in a linear classifier"),
        ("tissue", {"method": "varpro", "levels": 2}, "ends in a linear classifier"),
        ("tumour", {"rate": -1.0}, "rate"),
    ],
)  # fmt: skip
def test_what_no_data_would_change_is_refused_before_any_are_made(
    monkeypatch, tmp_path, name, changes, message
):
    monkeypatch.setattr(problems, "_task", None)
    with pytest.raises(ValueError, match=message):
        next(train(replace(recipe_named(name), **changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth"),
        ({"width": 7}, "even"),
        ({"final_time": 0.0}, "final_time"),
        ({"activation": "tanhh"}, "unknown activation"),
        ({"strategy": "reversible", "architecture": "residual"}, "checkpointed"),
        ({"architecture": "segmenter"}, "any architecture but segmenter"),
        ({"rate": -1.0}, "rate"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": None}, "budget"),
        ({"device": "cuda:99"}, "device"),
        ({"device": "abacus"}, "device"),
        ({"stencil": 4}, "odd"),
        ({"smoothness": -1.0}, "smoothness"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        next(train(replace(SMALL, **changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("broken", ["weights", "scores", "nothing"])
def test_a_broken_run_folder_is_named(finished, tmp_path, broken):
    folder, _ = finished
    copy = tmp_path / "run"
    copy.mkdir()
    for item in folder.iterdir():
        (copy / item.name).write_bytes(item.read_bytes())
    if broken == "nothing":
        (copy / "recipe.toml").unlink()
        with pytest.raises(ValueError, match="no run folder"):
            load_run(copy)
    elif broken == "scores":
        (copy / "scores.json").write_text("{")
        with pytest.raises(ValueError, match="not JSON"):
            load_run(copy)
    else:
        content = (copy / "weights.safetensors").read_bytes()
        (copy / "weights.safetensors").write_bytes(content[:100])
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_network(copy)


def test_weights_of_another_network_are_one_sentence(finished, tmp_path):
    folder, _ = finished
    for item in folder.iterdir():
        (tmp_path / item.name).write_bytes(item.read_bytes())
    text = (folder / "recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(text.replace("width = 8", "width = 12"))
    with pytest.raises(
        ValueError, match=r"another network than recipe.toml \(size mismatch for [^:]*: [^:]*\)$"
    ):
        load_network(tmp_path)
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="holds a recipe that cannot be read"):
        load_run(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(finished, tmp_path, value):
    folder, _ = finished
    for name in ("recipe.toml", "history.jsonl", "scores.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = load_network(folder).state_dict()
    for name in weights:
        broken = {**weights, name: weights[name].clone()}
        broken[name].view(-1)[-1] = value
        (tmp_path / "weights.safetensors").write_bytes(weights_as_bytes(broken))
        with pytest.raises(ValueError, match=f"holds NaN or infinity in {name}; train again"):
            load_network(tmp_path)


def test_progress_is_on_the_recipe_s_device():
    assert next(problem(SMALL).network.parameters()).device == torch.device("cpu")


def contents(folder):
    """What a run must repeat: everything but the times."""
    weights = (folder / "weights.safetensors").read_bytes()
    history = [{**line, "seconds": 0, "judging": 0} for line in load_run(folder).history]
    return weights, history, {**load_run(folder).scores, "seconds": 0}


@pytest.mark.parametrize("overwritten", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_weights(overwritten, tmp_path):
    recipe = replace(SMALL, epochs=4, threads=1)  # rounding depends on the number of threads
    list(train(recipe, tmp_path / "whole"))
    folder = tmp_path / "cut"
    if overwritten:
        list(train(SMALL, folder))
    code = (
        "import sys, os, pathlib\n"
        "from dataclasses import replace\n"
        "from keelnet.experiments.recipes import Recipe\n"
        "from keelnet.experiments.runs import train\n"
        f"recipe = {recipe!r}\n"
        f"steps = train(recipe, pathlib.Path({str(folder)!r}), {overwritten})\n"
        "[next(steps) for _ in range(2)]\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    with pytest.raises(ValueError, match="other settings .rate"):
        list(train(replace(recipe, rate=1e-3), folder, resume=True))
    steps = list(train(recipe, folder, resume=True))
    # Epochs within a second share a save, so the second one may have been lost.
    assert [step.epoch for step in steps] in ([2, 3, 4], [3, 4])
    assert contents(folder) == contents(tmp_path / "whole")
    assert not (folder / "state.pt").exists()
    with pytest.raises(ValueError, match="no interrupted run"):
        list(train(recipe, folder, resume=True))


def test_a_broken_state_is_refused(tmp_path):
    next(train(SMALL, tmp_path / "run"))
    (tmp_path / "run" / "state.pt").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be gone on with"):
        list(train(SMALL, tmp_path / "run", resume=True))
    with pytest.raises(ValueError, match="not both"):
        list(train(SMALL, tmp_path / "run", overwrite=True, resume=True))


def test_the_weights_of_a_run_are_those_that_were_best_averaged_or_not(tmp_path):
    for average in (None, 0.9):
        recipe, folder = replace(SMALL, average=average, rate=0.1), tmp_path / str(average)
        for step in train(recipe, folder):
            kept = {name: value.clone() for name, value in step.state.kept.items()}
        found = load_network(folder).state_dict()
        assert all(torch.equal(value, found[name]) for name, value in kept.items())
        made = problem(recipe)
        x, labels = made.task.samples.validation
        logits = predicted(load_network(folder), x, 500)
        right = float((logits.argmax(dim=1) == labels).double().mean())
        assert load_run(folder).scores["validation_accuracy"] == pytest.approx(right)


class OneOfTwo(Alone):
    """A process whose other one has nothing to say."""

    share = Share(0, 2)


def test_a_process_is_warmed_up_on_its_share_of_a_batch(tmp_path, monkeypatch):
    """A batch may fit because it is shared."""
    counts, make = [], problems.network_to_train

    def watched(*arguments):
        network = make(*arguments)
        network.register_forward_pre_hook(
            lambda _, given: counts.append(len(given[0])) if torch.is_grad_enabled() else None
        )
        return network

    monkeypatch.setattr(problems, "network_to_train", watched)
    monkeypatch.setattr(runs, "team_of", lambda device: (OneOfTwo(), device))
    next(train(SMALL, tmp_path / "run"))
    assert len(counts) > 1 and max(counts) == SMALL.batch // 2
