"""Limits: a process does not grow beyond what it was given, and says so in one sentence."""

from __future__ import annotations

import mmap
import subprocess
import sys
from dataclasses import replace

import pytest

from keelnet.data.samples import Share
from keelnet.experiments import limits
from keelnet.experiments.limits import held_within, limited
from keelnet.experiments.plan import plan
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.rehearsal import Measured
from keelnet.experiments.resident import STATUS, peak_since, private_of_children, status_of
from keelnet.learning.processes import Alone

MB = 10**6
linux = pytest.mark.skipif(not STATUS.exists(), reason="only Linux limits a process' memory")

GREEDY = """
import resource, sys
import torch
from keelnet.experiments.limits import held_within
from keelnet.experiments.resident import status_of

before = resource.getrlimit(resource.RLIMIT_DATA)
files = status_of("RssFile") + 20_000_000
memory = status_of("VmRSS") + 20_000_000 + 100_000_000
taken = []
try:
    with held_within(memory, files):
        taken.append(torch.ones(50_000_000, dtype=torch.uint8))
        while True:
            taken.append(eval(sys.argv[1]))
except ValueError as error:
    print(error)
assert resource.getrlimit(resource.RLIMIT_DATA) == before
assert status_of("VmHWM") <= memory, (status_of("VmHWM"), memory)
assert 0 < len(taken) < 100
torch.ones(200_000_000, dtype=torch.uint8)
"""


@linux
@pytest.mark.parametrize("piece", ["torch.ones(3_000_000)", "bytearray(5_000_000)", "torch.ones(10**12)"])  # fmt: skip
def test_a_held_process_stays_below_what_it_was_given(piece):
    done = subprocess.run(
        [sys.executable, "-c", GREEDY, piece], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the run reached the ") and done.stdout.count("\n") == 1


@linux
def test_a_process_that_is_larger_already_is_refused():
    alone = "the process alone takes .*, 1.00 MB were given"
    with pytest.raises(ValueError, match=alone), held_within(MB):
        raise AssertionError("entered")


@linux
def test_other_errors_pass_as_they_are():
    for error in (RuntimeError("shapes differ"), OSError(28, "no space"), KeyError("k")):
        with pytest.raises(type(error)) as caught, held_within(2**40):
            raise error
        assert caught.value is error


def test_other_systems_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "STATUS", tmp_path / "none")
    with pytest.raises(ValueError, match="only Linux"), held_within(2**40):
        raise AssertionError("entered")


@linux
def test_what_linux_says_of_a_process():
    peak_since()
    before = status_of("VmRSS")
    with mmap.mmap(-1, 64_000_000) as block:  # new pages, where a heap would give its free ones
        for place in range(0, len(block), mmap.PAGESIZE):
            block[place] = 1
        assert status_of("VmRSS") - before > 60_000_000
    assert peak_since() - before > 60_000_000
    with pytest.raises(ValueError, match="does not say VmNone"):
        status_of("VmNone")


@linux
def test_children_count_with_what_is_theirs_alone():
    code = "block = bytearray(b'x') * 50_000_000; print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        child.stdout.readline()
        assert private_of_children() > 50_000_000
    finally:
        child.communicate(b"\n")


def measured(part):
    return Measured(*[400 * MB] * 3, 0, MB, MB, 0, 200 * MB, 1.0, 0.1)


def plans(monkeypatch):
    monkeypatch.setattr(
        limits,
        "require_within",
        lambda recipe, memory, report: plan(recipe, report, rehearse=measured),
    )


@linux
def test_the_limit_holds_while_the_steps_are_taken(monkeypatch):
    import resource

    plans(monkeypatch)
    before = resource.getrlimit(resource.RLIMIT_DATA)

    def steps():
        yield resource.getrlimit(resource.RLIMIT_DATA)

    memory = 8 * 10**9
    (inside,) = limited(recipe_named("digits"), memory, steps())
    # Without a limit it would be RLIM_INFINITY, which is -1.
    assert 0 < inside[0] < memory + status_of("VmData")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_each_of_several_processes_is_planned_for_its_share(monkeypatch):
    seen = []

    class Two(Alone):
        share = Share(0, 2)

        def by_leader(self, make):
            value = make()
            seen.append(value.recipe.batch)
            return value

    plans(monkeypatch)
    monkeypatch.setattr(limits, "team_of", lambda device: (Two(), device))
    limited(replace(recipe_named("digits"), batch=63), 8 * 10**9, iter(()))
    assert seen == [32]
