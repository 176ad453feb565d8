"""Laws of a launch by torchrun that loses processes: what it trains in the end is what nothing disturbed."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from launches import ended, epochs, free_port, outcome, torchrun, until, worker
from torch.distributed import HashStore

from keelnet.learning.launches import _asked, _given, launch, restarts_left

TRAIN = ["-m", "keelnet", "train", "digits", "--epochs", "24", "--out", "run"]
TRAIN += ["--set", "width=8", "--set", "depth=2", "--set", "batch=256"]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What two "machines" of one process each have left, and said, undisturbed."""
    folder = tmp_path_factory.mktemp("calm")
    nodes = ["--nnodes=2", "--nproc-per-node=1", f"--master-port={free_port()}"]

    def launched(node):
        return torchrun(folder, [*nodes, f"--node-rank={node}"], TRAIN, f"{node}.txt")

    with launched(0) as first, launched(1) as second:
        ended(first, folder / "0.txt")
        ended(second, folder / "1.txt")
    return folder


def test_only_the_first_process_writes_and_speaks(calm):
    assert "validation accuracy" in (calm / "0.txt").read_text()
    assert "accuracy" not in (calm / "1.txt").read_text()
    assert {item.name for item in (calm / "run").iterdir()} == {
        "recipe.toml",
        "history.jsonl",
        "weights.safetensors",
        "scores.json",
        "curves.png",
    }


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_launch_that_loses_a_process_ends_as_one_that_lost_none(calm, tmp_path):
    """To the last bit; the run that is overwritten stays until the end."""
    run, said = tmp_path / "run", tmp_path / "said.txt"
    run.mkdir()
    (run / "scores.json").write_text("old")
    options = ["--nproc-per-node=2", "--max-restarts=1"]
    with torchrun(tmp_path, options, [*TRAIN, "--overwrite"], said.name) as launch:
        until(lambda: epochs(run / ".unfinished"))
        os.kill(until(lambda: worker(launch, rank=1)), signal.SIGKILL)
        assert (run / "scores.json").read_text() == "old"
        ended(launch, said)
    # Whichever notices first: the process that is left, or torchrun, which then stops it.
    lost = ("another process of this training was lost", "closing signal SIGTERM")
    assert any(words in said.read_text() for words in lost)
    assert outcome(run) == outcome(calm / "run")
    assert {item.name for item in run.iterdir()} == {item.name for item in (calm / "run").iterdir()}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_processes_of_a_start_meet_whatever_earlier_ones_left(size):
    store, names = HashStore(), set()
    for _ in range(3):
        for rank in range(1, size):  # who has asked and was lost before it heard
            store.set(f"asked/{rank}", f"old {rank}")
        with ThreadPoolExecutor(size) as several:
            first = several.submit(_given, store, size)
            others = [several.submit(_asked, store, rank) for rank in range(1, size)]
            heard = {each.result(60) for each in (first, *others)}
        assert len(heard) == 1
        assert not heard & names
        names |= heard


@pytest.mark.parametrize(("most", "count", "left"), [(0, 0, False), (2, 1, True), (2, 2, False)])
def test_a_launch_that_may_restart_has_a_name(monkeypatch, most, count, left):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", str(most))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))
    assert restarts_left() == left
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "here")
    assert launch() == "here"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # what torchrun says where none was given
    if most:
        with pytest.raises(ValueError, match="--rdzv-id"):
            launch()
    else:
        assert launch() is None
