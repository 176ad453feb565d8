"""Openings: a launch that is started again finds its own run, and no other's."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from keelnet.experiments.folders import MARK, STAGING
from keelnet.experiments.openings import STATE
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.runs import load_run, train

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = replace(recipe_named("digits"), width=4, depth=2, epochs=3, batch=1024)


class LossError(Exception):
    """What a process is thrown whose team has lost one."""


def started(monkeypatch, name="here", count=0, most=1):
    """This process is one that torchrun has started."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", str(most))


def lost(folder, epochs, **how):
    """A run that fails after so many epochs."""
    steps = train(SMALL, folder, **how)
    for _ in range(epochs):
        next(steps)
    if epochs:
        with pytest.raises(LossError):
            steps.throw(LossError)
    else:  # it is killed before its first epoch: its folder is there, with its mark
        root = folder / ".unfinished" if how else folder
        root.mkdir(parents=True)
        (root / MARK).write_text("here")


def test_a_finished_run_is_not_gone_on_with(tmp_path):
    """Also where a state lies there, of a run that was overwritten."""
    run = tmp_path / "run"
    steps = train(SMALL, run)
    next(steps)
    steps.close()
    list(train(SMALL, run, overwrite=True))
    before = (run / "scores.json").read_bytes()
    assert (run / STATE).is_file()
    with pytest.raises(ValueError, match="holds a finished run"):
        list(train(SMALL, run, resume=True))
    assert (run / "scores.json").read_bytes() == before


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm") / "run"
    list(train(SMALL, folder))
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_restart_ends_as_if_nothing_had_been_lost(monkeypatch, tmp_path, calm, epochs, overwrite):
    run = tmp_path / "run"
    if overwrite:
        run.mkdir()
        (run / "weights.safetensors").write_text("old")
    started(monkeypatch)
    lost(run, epochs, **({"overwrite": True} if overwrite else {}))
    if overwrite:
        assert (run / "weights.safetensors").read_text() == "old"
    root = run / ".unfinished" if overwrite else run
    (root / ".state.pt.killed.part").write_text("half")
    started(monkeypatch, count=1)
    steps = list(train(SMALL, run, overwrite))
    first = steps[
        0
    ].epoch  # short epochs share a save: the first is saved at once, the second need not be
    assert [step.epoch for step in steps] == [1, 2, 3][first - 1 :]
    assert min(2, epochs + 1) <= first <= epochs + 1
    weights = (run / "weights.safetensors").read_bytes()
    assert weights == (calm / "weights.safetensors").read_bytes()
    assert {item.name for item in run.iterdir()} == {item.name for item in calm.iterdir()}


def test_another_launch_s_run_is_refused_as_ever(monkeypatch, tmp_path):
    run = tmp_path / "run"
    started(monkeypatch)
    lost(run, 1)
    kept = {item.name: item.read_bytes() for item in run.iterdir()}
    started(monkeypatch, name="there", count=1)
    with pytest.raises(ValueError, match="--overwrite"):
        next(train(SMALL, run))
    assert {item.name: item.read_bytes() for item in run.iterdir()} == kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no locks to tell a lost run by")
@pytest.mark.parametrize("name", ["there", None])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_launch_lost_before_its_first_epoch_stands_in_nobody_s_way(
    monkeypatch, tmp_path, calm, overwrite, name
):
    run = tmp_path / "run"
    if overwrite:
        run.mkdir()
        (run / "weights.safetensors").write_text("old")
    started(monkeypatch)
    lost(run, 0, **({"overwrite": True} if overwrite else {}))
    if name is None:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS")
    else:
        started(monkeypatch, name)
    list(train(SMALL, run, overwrite))
    weights = (run / "weights.safetensors").read_bytes()
    assert weights == (calm / "weights.safetensors").read_bytes()
    assert {item.name for item in run.iterdir()} == {item.name for item in calm.iterdir()}


def test_where_no_restart_follows_a_failed_run_leaves_what_it_leaves_alone(monkeypatch, tmp_path):
    started(monkeypatch, most=0)
    lost(tmp_path / "run", 1)
    assert not (tmp_path / "run" / MARK).exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("mine")
    lost(tmp_path / "old", 1, overwrite=True)
    assert [item.name for item in (tmp_path / "old").iterdir()] == ["notes.txt"]


def test_weights_of_an_epoch_that_was_lost_do_not_stay(tmp_path, calm):
    """Killed between weights and state; no epoch follows that would write better ones."""
    steps = train(SMALL, tmp_path / "run")
    for _ in range(SMALL.epochs):
        next(steps)
    steps.close()
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"of an epoch that was lost")
    list(train(SMALL, tmp_path / "run", resume=True))
    found, wanted = (each / "weights.safetensors" for each in (tmp_path / "run", calm))
    assert found.read_bytes() == wanted.read_bytes()


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run that was interrupted after its second epoch."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    steps = train(SMALL, folder)
    for _ in range(2):
        next(steps)
    steps.close()
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no such locks")
def test_an_overwriting_run_that_was_cut_off_can_be_gone_on_with_and_it_is_said(tmp_path, cut):
    run = tmp_path / "run"
    shutil.copytree(cut, run / STAGING)
    shutil.copy(cut / "recipe.toml", run)  # of one that was cut off before
    with pytest.raises(ValueError, match=r"missing; go on with it \(keelnet train … --resume\)"):
        load_run(run)
    words = r"unfinished exists: a run was cut off; go on with it \(--resume\), move it away or"
    with pytest.raises(ValueError, match=words):
        list(train(SMALL, run, overwrite=True))
    assert [step.epoch for step in train(SMALL, run, resume=True)][-1] == SMALL.epochs
    assert load_run(run).recipe == SMALL


def lines(*epochs):
    """Of a history."""
    kept = {"seconds": 1.0, "judging": 0.5, "scores": {"accuracy": 0.5}, "best": True}
    return "".join(json.dumps({"epoch": epoch, **kept}) + "\n" for epoch in epochs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "does not hold the epochs up to 2"),
        (lines(1), "does not hold the epochs up to 2"),
        (lines(1, 3), "does not hold the epochs up to 2"),
        ('{"epoch": 1}\n{"epoch": 2}\n', "does not hold the epochs up to 2"),
        (lines(1, 2)[:-40], "cannot be read: "),
        ("[1]\n[2]\n", "cannot be read: "),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_a_history_that_does_not_fit_its_state_is_refused_and_kept(tmp_path, cut, text, words):
    run = tmp_path / "run"
    shutil.copytree(cut, run)
    (run / "history.jsonl").unlink()
    if text is not None:
        (run / "history.jsonl").write_text(text)
    before = {item.name: item.read_bytes() for item in run.iterdir()}
    with pytest.raises(ValueError, match=f"run/history.jsonl {words}.*; train anew in another"):
        list(train(SMALL, run, resume=True))
    assert {item.name: item.read_bytes() for item in run.iterdir()} == before


@pytest.mark.parametrize("state", [{"epoch": 1}, [1, 2], 3])
def test_a_state_of_other_fields_is_refused(tmp_path, cut, state):
    shutil.copytree(cut, tmp_path / "run")
    torch.save(state, tmp_path / "run" / STATE)
    with pytest.raises(ValueError, match="run cannot be gone on with: .*; train anew in another"):
        list(train(SMALL, tmp_path / "run", resume=True))


def test_a_line_of_the_epoch_after_the_state_is_written_anew(tmp_path, cut):
    shutil.copytree(cut, tmp_path / "run")
    history = tmp_path / "run" / "history.jsonl"
    history.write_text(history.read_text() + '{"epoch": 3, "sec')
    assert [step.epoch for step in train(SMALL, tmp_path / "run", resume=True)] == [3]
    assert [json.loads(line)["epoch"] for line in history.read_text().splitlines()] == [1, 2, 3]
