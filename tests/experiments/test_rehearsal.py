"""Rehearsals: the first steps in a process of their own, and why there are none."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace

import pytest
import torch

from keelnet.experiments import rehearsal
from keelnet.experiments.parts import largest_part, smallest_part
from keelnet.experiments.plan import plan
from keelnet.experiments.problems import network_of
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.rehearsal import EPOCHS, STEPS, Rehearsal, main, rehearsed
from keelnet.experiments.resident import STATUS
from keelnet.networks import segmentation
from keelnet.propagation.engines import pool

SMALL = replace(recipe_named("tumour"), width=(4, 8), depth=(1, 1), patch=(16,))
linux = pytest.mark.skipif(not STATUS.exists(), reason="memory is measured on Linux alone")


def part(recipe):
    return Rehearsal(asdict(recipe), 1.0, recipe.batch, (16, 16, 16), (16, 24, 16))


@linux
def test_what_a_process_finds_is_read(capsys):
    assert main(json.dumps(asdict(part(SMALL)))) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == set(rehearsal.Measured.__dataclass_fields__)
    voxels = SMALL.batch * 16**3
    assert found["batch"] == voxels * (4 * 4 + 8)
    assert voxels < found["kept"] < 1000 * voxels
    assert min(found[peak] for peak in ("trained", "judged", "finished")) > found["files"] > 0
    parameters = sum(value.nbytes for value in network_of(SMALL).parameters())
    assert found["optimiser"] == pytest.approx(2 * parameters, rel=0.05)
    assert found["first"] > 0 and found["seconds"] > 0


@linux
def test_more_layers_keep_more_where_all_are_stored_and_no_more_where_they_are_reversible():
    generator = torch.Generator()

    def kept(strategy, depth):
        recipe = replace(SMALL, strategy=strategy, depth=(depth, depth))
        made = rehearsal._problem(rehearsal._recipe(part(recipe)), part(recipe))
        return rehearsal._kept(made, recipe.batch, generator)[0]

    assert kept("store_all", 8) > 1.3 * kept("store_all", 2)
    assert kept("reversible", 8) == kept("reversible", 2)


def test_a_few_steps_of_each_epoch_are_taken_and_the_last():
    class Source:
        def batches(self, *arguments):
            yield from range(100)

    few = rehearsal._Few(Source())
    for _ in range(EPOCHS):
        assert list(few.batches(1, torch.Generator())) == [*range(STEPS), 99]
    assert len(few.seconds) == EPOCHS * STEPS


@pytest.mark.parametrize("side", [48, 64, 96, 104, 112, 192])
def test_a_part_keeps_of_the_finest_level_what_the_whole_does(monkeypatch, side):
    """Else the memory of the whole would be foretold from parts of another network."""
    for owner, name in ((pool, "SMALL"), (pool, "KEPT"), (segmentation, "LARGE")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # as they were, after this

    def no_libc(name):
        raise OSError

    monkeypatch.setattr(rehearsal.ctypes, "CDLL", no_libc)  # this process goes on
    recipe = replace(recipe_named("tumour"), patch=(side,))
    network = network_of(recipe).train()

    def again(part):
        return network._is_frugal(torch.empty(part.batch, 32, *(n // 2 for n in part.patch)))

    whole, before = largest_part(recipe, 1.0), segmentation.LARGE
    wanted = again(whole)
    assert wanted == (side > 96)  # 2 × 32 × 52³ numbers of 4 bytes are more than 32 MB
    for part in (smallest_part(recipe), largest_part(recipe, 0.4), largest_part(recipe, 0.7)):
        segmentation.LARGE = before
        rehearsal._scale(part.share)
        assert again(part) == wanted


def test_an_error_in_the_process_is_one_sentence(capsys):
    assert main(json.dumps(asdict(part(replace(SMALL, activation="tan"))))) == 2
    assert "unknown activation 'tan'" in json.loads(capsys.readouterr().out)["error"]


def answers(monkeypatch, stdout="", stderr="", code=0):
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *words, **settings: done)


@linux
@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        ('{"error": "no room"}\n', "", "no room"),
        ("", "Traceback\nKeyError: 3\n", "KeyError: 3"),
        ("", "", "it was killed"),
    ],
)
def test_what_cannot_be_rehearsed_says_why(monkeypatch, stdout, stderr, reason):
    answers(monkeypatch, stdout, stderr, code=-9)
    with pytest.raises(ValueError, match=f"cannot be rehearsed: {reason}"):
        rehearsed(part(SMALL))


@linux
def test_a_first_step_that_compiled_is_rehearsed_again(monkeypatch):
    found = rehearsal.Measured(*[100] * 3, 1, 1, 1, 0, 10, 60.0, 0.1)
    calls = iter([found, replace(found, trained=90, first=0.2)])
    monkeypatch.setattr(rehearsal, "_process", lambda given: next(calls))
    assert rehearsed(part(SMALL)).trained == 90


def test_other_systems_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(rehearsal, "STATUS", tmp_path / "none")
    with pytest.raises(ValueError, match="only Linux"):
        plan(recipe_named("digits"))


def test_one_of_several_processes_rehearses_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("KEELNET_CACHE", "kept")
    environment = rehearsal._alone()
    assert "WORLD_SIZE" not in environment and environment["KEELNET_CACHE"] == "kept"


@pytest.mark.parametrize("name", ["digits", "tumour"])
def test_a_recipe_survives_the_way_to_its_process(name):
    recipe = recipe_named(name)
    small = smallest_part(recipe)
    sent = json.loads(json.dumps(asdict(small)))
    back = rehearsal._recipe(Rehearsal(**sent))
    assert back == replace(recipe, batch=small.batch, epochs=small.epochs, minutes=None)
