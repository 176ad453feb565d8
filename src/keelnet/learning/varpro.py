"""Variable projection: the classifier is eliminated, and the rest moves by Gauss–Newton steps."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import nn

from keelnet.data.samples import Source
from keelnet.learning.evaluations import Reduced, require_linear_end
from keelnet.learning.gauss_newton import GaussNewton, GaussNewtonSolver
from keelnet.learning.iterations import iterate
from keelnet.learning.objective import Objective
from keelnet.learning.processes import Team
from keelnet.learning.progress import Clock, Progress, State
from keelnet.learning.unknowns import Unknowns
from keelnet.learning.validation import Validation


def varpro(
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
    """Minimise φ(θ) = min over (W, v) of the objective, by Gauss–Newton steps; the protocol of `descend`.

    The step for θ is that of all unknowns at the best classifier: where its gradient is 0, eliminating δW from
    the joint system leaves the Gauss–Newton system of φ (Golub & Pereyra 1973). Every trial of the
    line search has its own best classifier. Raises ValueError as `gauss_newton` does, for a network without a
    linear classifier, and where the classifier's problem is singular or has no minimum.
    """
    require_linear_end(network)
    evaluation = Reduced(network, objective, settings.classifier)
    solver = GaussNewtonSolver(Unknowns(network, objective), evaluation, settings)
    return iterate(
        network, solver, samples, settings.stage, validate, generator, clock, state, team
    )
