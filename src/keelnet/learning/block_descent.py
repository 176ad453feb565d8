"""Block coordinate descent: the classifier, then everything else, in turn (Haber & Ruthotto 2018)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from keelnet.data.samples import Source
from keelnet.learning.classifier import fit_classifier
from keelnet.learning.evaluations import Plain, require_linear_end
from keelnet.learning.gauss_newton import GaussNewton, GaussNewtonSolver
from keelnet.learning.iterations import Outcome, Solver, iterate
from keelnet.learning.objective import Objective
from keelnet.learning.processes import Team
from keelnet.learning.progress import Clock, Progress, State
from keelnet.learning.unknowns import Unknowns
from keelnet.learning.validation import Validation
from keelnet.networks.network import Network, classifier_of


def block_descent(
    network: nn.Module,
    objective: Objective,
    samples: Source,
    settings: GaussNewton,
    validate: Validation,
    generator: torch.Generator,
    clock: Clock = time.monotonic,
    state: State | None = None,
    team: Team | None = None,
) -> Iterator[Progress]:
    """The classifier by inexact Newton steps, then the rest by one Gauss–Newton step; the protocol of `descend`.

    Haber & Ruthotto's own algorithm. settings.classifier says how exactly the classifier is solved for; it need
    not have a minimum. Raises ValueError as `gauss_newton` does, for a network without a linear
    classifier, and where the classifier's system is singular.
    """
    solver = _InTurn(require_linear_end(network), objective, settings)
    return iterate(
        network, solver, samples, settings.stage, validate, generator, clock, state, team
    )


class _InTurn(Solver):
    """One step is both blocks once."""

    def __init__(self, network: Network, objective: Objective, settings: GaussNewton) -> None:
        self.network, self.objective, self.settings = network, objective, settings
        rest = Unknowns(network, objective, fixed=network.classifier)
        self.inner = GaussNewtonSolver(rest, Plain(network, objective), settings)
        self.memory = self.inner.memory

    def step(self, x: Tensor, labels: Tensor) -> Outcome:
        with torch.no_grad():
            y = self.network.features(x)
        fit = fit_classifier(
            classifier_of(self.network), self.objective, y, labels, self.settings.classifier
        )
        outcome = self.inner.step(x, labels)
        return replace(outcome, details={**outcome.details, "classifier_gradient": fit.gradient})
