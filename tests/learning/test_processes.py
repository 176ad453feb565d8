"""Laws of several processes: they train what one process trains, and one of them speaks for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launches import free_port

import keelnet as kn
from keelnet.cli import invoke
from keelnet.data.samples import InMemory, Share
from keelnet.learning import Adam, Budget, Objective, Training, descend
from keelnet.learning.multilevel import multilevel
from keelnet.learning.processes import Alone
from keelnet.learning.validation import scored
from keelnet.networks import architectures

# Strategy and batch size of 22 samples: the last batches hold 6, 1 and 4, the smallest fewer than the processes.
CASES = {
    "store_all": (kn.store_all, 8),
    "checkpointed": (kn.checkpointed, 8),
    "reversible": (kn.reversible, 8),
    "a last batch of one": (kn.reversible, 7),
    "fewer samples than processes": (kn.store_all, 2),
    "refined": (kn.reversible, 9),
    "gone on with from one process": (kn.reversible, 6),
    "by the clock of the first": (kn.checkpointed, 8),
}
WORKER = """
import json, torch
from keelnet.data.samples import InMemory
from test_processes import CASES, Broken, Large, descended
from keelnet.learning.breakdown import is_breakdown
from keelnet.learning.processes import LostError, SharedError, speaks_for, team_of
from keelnet.propagation.bounds import NonFiniteStateError

team, device = team_of(torch.device("cpu"))
own = team.share.rank
found = {case: descended(team, case) for case in CASES}
json.dump(found, open(f"{own}.json", "w"))

def failing(by):
    if own == by:
        raise ValueError(f"{by} cannot")

for call, by in ((team.by_leader, 0), (team.in_turn, 0), (team.in_turn, 1)):
    try:
        call(lambda: failing(by))
    except SharedError as error:
        assert not is_breakdown(error)
        print("all:", error, speaks_for(error))

def overflowing(by):
    if own == by:
        raise NonFiniteStateError("overflow")

for call in (
    lambda: team.by_leader(lambda: overflowing(0)),
    lambda: team.in_turn(lambda: overflowing(1)),
    lambda: descended(team, "store_all", Large if own == 1 else InMemory),
    lambda: descended(team, "store_all", rate=1e300),
):
    try:
        call()
    except SharedError as error:
        assert is_breakdown(error), error
    else:
        raise AssertionError("went on")
team.in_turn(lambda: None)
assert team.by_leader(lambda: own) == 0
try:
    with team.watched():
        descended(team, "store_all", Broken if own == 1 else InMemory)
except LostError as error:
    print("lost:", speaks_for(error))
except KeyError as error:
    print("own:", speaks_for(error))
"""


class Broken(InMemory):
    """Samples that one process cannot read."""

    def batches(self, *arguments):
        first, *_ = super().batches(*arguments)
        yield first
        raise KeyError("unreadable")


class Large(InMemory):
    """Samples whose features overflow."""

    def batches(self, *arguments):
        for x, labels in super().batches(*arguments):
            yield 1e308 * x, labels


def samples(kind=InMemory):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(22, 5, generator=generator, dtype=torch.float64)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    return kind((x, labels), (x[:4], labels[:4]), ("no", "yes"))


def steps(network, team, case, epochs=2, state=None, kind=InMemory, rate=1e-2):
    """The descent of a case, with regularisers."""
    data = samples(kind)
    ticks = iter(range(10**6))
    by_clock = case == "by the clock of the first"
    budget = Budget(None, 40.0) if by_clock else Budget(epochs)
    settings = Training(Adam(rate), budget, CASES[case][1], "agreed")
    refined = case == "refined"
    return (multilevel if refined else descend)(
        network,
        Objective(smoothness=1e-2, tikhonov=1e-3),
        data,
        (settings, settings) if refined else settings,
        scored(
            data, lambda logits, labels: {"agreed": float((logits.argmax(1) == labels).sum())}, 4
        ),
        torch.Generator().manual_seed(0),
        # The others' clocks never stop a descent.
        lambda: float(next(ticks)) if team.leads else 0.0,
        state,
        team,
    )


def descended(team, case, kind=InMemory, rate=1e-2):
    """Terms of every epoch and a sum of each parameter."""
    torch.set_num_threads(1)
    strategy, _ = CASES[case]
    network = architectures.hamiltonian(5, 2, width=6, depth=4, strategy=strategy).double()
    state = None
    if case == "gone on with from one process":
        first = steps(network, Alone(), case)
        state = next(first).state
        first.close()
    every = steps(network, team, case, state=state, kind=kind, rate=rate)
    terms = [each.terms for each in every]
    return terms, [float(value.detach().sum()) for value in network.parameters()]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 64])
def test_shares_are_a_batch_whose_weighted_means_are_its_mean(size, count):
    values = torch.arange(count, dtype=torch.float64).square()
    taken = [place for rank in range(size) for place in Share(rank, size).of(count)]
    assert set(taken) == set(range(count))
    if count >= size:
        assert sorted(taken) == list(range(count))
    shares = [Share(rank, size) for rank in range(size)]
    means = [share.weight(count) * values[list(share.of(count))].mean() for share in shares]
    assert float(sum(means) / size) == pytest.approx(float(values.mean()), rel=1e-12)


def processes(arguments, size, folder):
    """The same command as torchrun would start it: what each said, to the user and of errors, and its code."""
    here = Path(__file__).parent
    shared = os.environ | {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
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


@pytest.fixture(scope="module", params=[2, 3])
def ran(request, tmp_path_factory):
    """A folder with what every process has found, and what each said."""
    folder = tmp_path_factory.mktemp("ran")
    found = processes(["-c", WORKER], request.param, folder)
    assert all(code == 0 for _, _, code in found), found
    return folder, [said.splitlines() for said, _, _ in found]


@pytest.mark.parametrize("case", CASES)
def test_processes_together_are_one_process_within_rounding(ran, case):
    folder, said = ran
    first, *others = (
        json.loads((folder / f"{rank}.json").read_text())[case] for rank in range(len(said))
    )
    assert all(each == first for each in others)
    alone_terms, alone = descended(Alone(), case)
    terms, parameters = first
    assert parameters == pytest.approx(alone, abs=1e-10)
    for one, other in zip(terms, alone_terms, strict=True):
        # A term's mean over batches weighs a smaller last batch as one process does.
        assert one == pytest.approx(other, abs=1e-10)


def test_what_stops_one_process_stops_all_and_is_said_by_one(ran):
    _, (first, second, *others) = ran
    together = ["all: 0 cannot", "all: 0 cannot", "all: 1 cannot"]
    assert first == [f"{line} True" for line in together] + ["lost: True"]
    assert second == [f"{line} False" for line in together] + ["own: True"]
    for each in others:
        assert each == [f"{line} False" for line in together] + ["lost: False"]


@pytest.mark.parametrize("wrong", [("train", "brains"), ("train", "digits", "--speed", "9")])
@pytest.mark.parametrize("place", [0, 1])
def test_bad_use_is_said_once_on_each_machine(monkeypatch, capsys, wrong, place):
    monkeypatch.setenv("LOCAL_RANK", str(place))
    assert invoke([*wrong]) == 2
    assert capsys.readouterr().err.count("keelnet:") == (1 if place == 0 else 0)
