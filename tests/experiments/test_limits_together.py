"""Limits of several processes: what they send each other lies beside what one of them needs."""

from __future__ import annotations

import pytest

from keelnet.data.samples import Share
from keelnet.experiments import limits
from keelnet.experiments.ledger import Ledger
from keelnet.experiments.limits import limited
from keelnet.experiments.plan import Plan
from keelnet.experiments.problems import network_of
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.resident import STATUS
from keelnet.learning.processes import Alone

RECIPE = recipe_named("digits")


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux limits a process' memory")
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_plan_fits_where_the_gradients_that_are_sent_fit_beside_it(processes, monkeypatch):
    sent = 4 * sum(value.numel() for value in network_of(RECIPE).parameters())
    alone = Plan(RECIPE, Ledger(8 * 10**9, *[0] * 7), 1.0, 0, (1.0,))
    whole = Plan(RECIPE, Ledger(8 * 10**9, sent * (processes > 1), *[0] * 6), 1.0, 0, (1.0,))
    given = []

    def require_within(recipe, memory, report):
        given.append(memory)
        return alone

    class Several(Alone):
        share = Share(0, processes)

    monkeypatch.setattr(limits, "require_within", require_within)
    monkeypatch.setattr(limits, "team_of", lambda device: (Several(), device))
    heard: list[str] = []
    for memory in (whole.wanted - 2, whole.wanted + 2):  # whole bytes are rounded up twice
        limited(RECIPE, memory, iter(()), heard.append)
    assert [alone.fits(memory) for memory in given] == [False, True]
    assert len(heard) == (2 if processes > 1 else 0)
    assert all("hold the gradients that it sends" in line for line in heard)
