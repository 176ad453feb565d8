"""Laws of several processes: they train what one process trains, and only the first one writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from keelnet.data.samples import InMemory, Share
from keelnet.learning import Adam, Budget, Objective, Training, descend
from keelnet.learning.descent import scored
from keelnet.learning.processes import Alone
from keelnet.networks import architectures

WORKER = """
import json, sys, torch
from test_processes import descended
from keelnet.learning.processes import team_of

team, device = team_of(torch.device("cpu"))
terms, parameters = descended(team)
if team.leads:
    json.dump([terms, parameters], open(sys.argv[1], "w"))
"""


def samples(count=22):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    return InMemory((x, labels), (x[:4], labels[:4]), ("no", "yes"))


def descended(team):
    """Two epochs whose last batches are smaller (22 = 8 + 8 + 6), with regularisers."""
    torch.set_num_threads(1)
    data = samples()
    network = architectures.hamiltonian(5, 2, width=6, depth=4).double()
    terms = []
    for progress in descend(
        network,
        Objective(smoothness=1e-2, tikhonov=1e-3),
        data,
        Training(Adam(1e-2), Budget(2), 8, "agreed"),
        scored(
            data, lambda logits, labels: {"agreed": float((logits.argmax(1) == labels).sum())}, 4
        ),
        torch.Generator().manual_seed(0),
        lambda: 0.0,
        team=team,
    ):
        terms.append(progress.terms)
    return terms, [float(value.detach().sum()) for value in network.parameters()]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 64])
def test_shares_are_a_batch_once_each(size, count):
    taken = [place for rank in range(size) for place in Share(rank, size).of(count)]
    assert set(taken) == set(range(count))
    if count >= size:
        assert sorted(taken) == list(range(count))


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def processes(arguments, size, folder):
    """The same command as torchrun would start it."""
    shared = os.environ | {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.path.dirname(__file__),
    }
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    return [(*each.communicate(timeout=120), each.returncode) for each in started]


@pytest.mark.parametrize("size", [2, 3])
def test_processes_together_are_one_process_within_rounding(tmp_path, size):
    outcome = tmp_path / "outcome.json"
    for _, said, code in processes(["-c", WORKER, str(outcome)], size, tmp_path):
        assert code == 0, said
    terms, parameters = json.loads(outcome.read_text())
    alone_terms, alone = descended(Alone())
    assert parameters == pytest.approx(alone, abs=1e-10)
    for one, other in zip(terms, alone_terms, strict=True):
        # A term's mean over batches weighs a smaller last batch as one process does.
        assert one == pytest.approx(other, abs=1e-10)


def test_only_the_first_process_writes_and_speaks(tmp_path):
    command = ["-m", "keelnet", "train", "digits", "--epochs", "1", "--out", "run"]
    small = ["--set", "width=8", "--set", "depth=2", "--set", "batch=256"]
    (first, said, code), (second, _, other) = processes([*command, *small], 2, tmp_path)
    assert (code, other) == (0, 0), said
    assert "validation accuracy" in first and not second
    assert (tmp_path / "run" / "scores.json").is_file()
