"""Inexact Gauss–Newton–Krylov: a linearised network, conjugate gradients, and a line search."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from keelnet.data.samples import Source
from keelnet.dynamics.kernels import require_count
from keelnet.learning.breakdown import BreakdownError
from keelnet.learning.classifier import ClassifierNewton
from keelnet.learning.curvature import Curvature
from keelnet.learning.evaluations import Evaluation, Plain
from keelnet.learning.iterations import Outcome, Solver, Stage, iterate
from keelnet.learning.losses import require_convex
from keelnet.learning.methods import require_positive, require_share
from keelnet.learning.objective import Objective
from keelnet.learning.processes import Team
from keelnet.learning.progress import Clock, Progress, State
from keelnet.learning.solvers import Armijo, EisenstatWalker, Forcing, conjugate_gradients
from keelnet.learning.tangents import Forward, Tangent
from keelnet.learning.training import Budget
from keelnet.learning.unknowns import Unknowns
from keelnet.learning.validation import Validation

SINGULAR = (
    "the Gauss–Newton system is singular: the loss has no curvature in the parameters here;"
    " use damping > 0, or a smaller network gain if the logits are saturated"
)


class LineSearchWarning(UserWarning):
    """No step along the direction lowers the objective enough."""


@dataclass(frozen=True)
class GaussNewton:
    """How to take Gauss–Newton steps: one a batch, so batch_size is best all samples.

    damping: Levenberg's λ at the start, in the norm of the functions of time; it adapts by how well the
    model foretold the decrease (0: never any). iterations: most products a step. forcing: how exactly the
    system is solved. search: the line search. tangent: how J v is computed. share: of the batch that
    the Hessian products see. patience: steps in a row without a decrease before it ends. classifier: how
    `block_descent` and `varpro` solve for it. budget, goal, device as in `Training`; an epoch is a pass
    over the samples. Raises ValueError for numbers below 1, a damping below 0 and a share outside (0, 1].
    """

    budget: Budget
    batch_size: int
    goal: str
    damping: float = 0.1
    iterations: int = 30
    forcing: Forcing = field(default_factory=lambda: EisenstatWalker(0.1))
    search: Armijo = field(default_factory=Armijo)
    tangent: Tangent = field(default_factory=Forward)
    share: float = 1.0
    patience: int = 3
    classifier: ClassifierNewton = field(default_factory=ClassifierNewton)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        require_count("batch_size", self.batch_size)
        require_count("iterations", self.iterations)
        require_count("patience", self.patience)
        require_share("damping", self.damping, float("inf"))
        require_positive("share", self.share)
        if self.share > 1:
            raise ValueError(f"share must be at most 1, got {self.share!r}")

    @property
    def stage(self) -> Stage:
        """What the generator needs."""
        return Stage(self.budget, self.batch_size, self.goal, self.device)


def gauss_newton(
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
    """Train all parameters by inexact Gauss–Newton–Krylov steps; the protocol of `descend`.

    Each step solves (Jᵀ B J + R + λ M) d = −g by preconditioned conjugate gradients (Haber & Ruthotto
    2018) and searches along d. Progress: terms after the step, rate the step length, details of the solver.
    Where no step lowers the objective, λ grows; after ``patience`` such steps it warns (LineSearchWarning) and ends. It
    also ends where the decrease foretold is below rounding. Every part of the network stays in the mode, training or
    evaluation, that it is given in. Raises ValueError as `iterate` does.
    """
    unknowns = Unknowns(network, objective)
    solver = GaussNewtonSolver(unknowns, Plain(network, objective), settings)
    return iterate(
        network, solver, samples, settings.stage, validate, generator, clock, state, team
    )


class GaussNewtonSolver(Solver):
    """Gauss–Newton steps on these unknowns; an evaluation says what the objective is at a trial."""

    def __init__(self, unknowns: Unknowns, evaluation: Evaluation, settings: GaussNewton) -> None:
        require_convex(evaluation.objective.loss)
        self.unknowns, self.evaluation, self.settings = unknowns, evaluation, settings
        self.memory = {"damping": settings.damping, "failures": 0}

    def step(self, x: Tensor, labels: Tensor) -> Outcome:
        """One damped, searched step on these samples."""
        self.evaluation.settle(x, labels)
        here = self._linearised(x, labels)
        direction, details = self._direction(here)
        derivative = float(here.gradient @ direction)
        value, terms = here.value, here.terms
        del here  # its graph holds the parameters, which are to move now
        if -derivative <= 10 * torch.finfo(direction.dtype).eps * abs(value):
            return Outcome(terms, details, 0.0, finished=True)
        length, after = self._searched(x, labels, direction, value, derivative)
        self._adapt(length, value - sum(after.values()), derivative)
        details |= {"step": length, "damping": self.memory["damping"]}
        return Outcome(after or terms, details, length, self._given_up(length, details))

    def _linearised(self, x: Tensor, labels: Tensor) -> Curvature:
        settings, evaluation = self.settings, self.evaluation
        samples = max(1, round(settings.share * len(x)))
        return Curvature(
            evaluation.network,
            evaluation.objective,
            self.unknowns,
            x,
            labels,
            settings.tangent,
            samples,
        )

    def _direction(self, here: Curvature) -> tuple[Tensor, dict[str, float]]:
        """d with (Jᵀ B J + R + λ M) d ≈ −g."""
        damping, unknowns = self.memory["damping"], self.unknowns
        norm = float(here.gradient.norm())
        tolerance = self._tolerance(norm)
        scale = self._scale(here)
        if damping + scale == 0:
            raise BreakdownError(SINGULAR)
        curved = unknowns.curved(damping)
        solution = conjugate_gradients(
            lambda v: here.of_the_loss(v) + curved(v),
            -here.gradient,
            unknowns.smoothed(damping + scale),
            tolerance,
            self.settings.iterations,
        )
        if solution.singular and not bool(solution.x.any()):
            raise BreakdownError(SINGULAR)
        details = {
            "gradient": norm,
            "tolerance": tolerance,
            "products": float(solution.iterations),
            "residual": solution.residual,
        }
        self.memory |= {"gradient": norm, "tolerance": tolerance}
        return solution.x, details

    def _tolerance(self, norm: float) -> float:
        before = self.memory.get("gradient")
        ratio = norm / before if before else None
        return self.settings.forcing.tolerance(ratio, self.memory.get("tolerance"))

    def _scale(self, here: Curvature) -> float:
        """A typical curvature of the loss, relative to mass: a product with random signs (Hutchinson).

        Added to the preconditioner, it keeps what the regularisers do not see from being blown up.
        """
        signs = torch.Generator().manual_seed(0)
        v = torch.randint(0, 2, here.gradient.shape, generator=signs).to(here.gradient) * 2 - 1
        return max(0.0, float(v @ here.of_the_loss(v)) / self.unknowns.weighed(v))

    def _searched(
        self, x: Tensor, labels: Tensor, direction: Tensor, value: float, derivative: float
    ) -> tuple[float, dict[str, float]]:
        """The accepted step, which is then in place, and the terms there; 0 and none where there is none."""
        begin = self.unknowns.vector()
        tried: dict[str, float] = {}

        def trial(t: float) -> float:
            nonlocal tried
            self.unknowns.assign(begin + t * direction)
            tried = self.evaluation.terms(x, labels)
            return sum(tried.values()) if tried else float("inf")

        length = self.settings.search.length(value, derivative, trial)
        if length == 0:
            self.unknowns.assign(begin)
        return length, tried if length else {}

    def _adapt(self, length: float, decrease: float, derivative: float) -> None:
        """λ after a step: smaller where the whole step did what the model foretold, larger where not."""
        gain = 2 * decrease / -derivative
        shorter = 10.0 if not length else 3.0 if length < 1 or gain < 0.25 else 1.0
        factor = 1 / 3 if length == 1 and gain > 0.75 else shorter
        self.memory["damping"] = min(self.memory["damping"] * factor, 1e8)
        self.memory["failures"] = 0 if length else self.memory["failures"] + 1

    def _given_up(self, length: float, details: dict[str, float]) -> bool:
        """Whether steps have failed too often; a step of the same λ would fail alike."""
        if length or (self.memory["failures"] < self.settings.patience and self.settings.damping):
            return False
        warnings.warn(
            f"no step of {self.settings.search.halvings + 1} lengths lowered the objective"
            f" (gradient {details['gradient']:.2g}, damping {details['damping']:.2g}); training ends and"
            " keeps the best iterate; use a larger damping, more samples a batch or float64",
            LineSearchWarning,
            stacklevel=2,
        )
        return True
