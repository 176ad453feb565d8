"""Iterations: the generator of the solvers that go beyond gradients, one step a batch."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from keelnet.data.samples import Source
from keelnet.learning.modes import Modes
from keelnet.learning.processes import SharedError, Team
from keelnet.learning.progress import Clock, Progress, State, copied, put_back, warn_of_no_best
from keelnet.learning.training import Budget
from keelnet.learning.validation import Validation


@dataclass(frozen=True)
class Outcome:
    """What a step did: the terms of the objective after it, numbers of the solver, and whether to go on.

    length: the step length t, 0 for none. finished: nothing more can be gained, or no step was found.
    """

    terms: dict[str, float]
    details: dict[str, float]
    length: float
    finished: bool = False


class Solver(ABC):
    """One step at a time on a network that it holds; ``memory`` is all that it remembers between steps."""

    memory: dict[str, Any]

    @abstractmethod
    def step(self, x: Tensor, labels: Tensor) -> Outcome:
        """Move the network's parameters by one step on these samples."""


@dataclass(frozen=True)
class Stage:
    """What every solver's generator is given: when to stop, how to draw batches, what to keep."""

    budget: Budget
    batch_size: int
    goal: str
    device: torch.device


def iterate(
    network: nn.Module,
    solver: Solver,
    samples: Source,
    stage: Stage,
    validate: Validation,
    generator: torch.Generator,
    clock: Clock = time.monotonic,
    state: State | None = None,
    team: Team | None = None,
) -> Iterator[Progress]:
    """Yield after every pass over the samples; at the end the network holds its best iterate.

    The protocol of `descend`: budget, goal, state, generator and best iterate are the same. Every part of the network
    stays in the mode that it is given in, the whole network too: dropout and norms that ``.eval()`` has switched off
    are no harm. Raises ValueError for labels of one class only, non-finite x, a goal that is not given, norms that move
    their statistics, and several processes.
    """
    if team is not None and team.share.size > 1:
        raise SharedError(
            f'this solver runs in one process, not {team.share.size}; use method "adam", "sgd" or "lbfgs"'
        )
    _require_still(network)
    loop = _Loop(network, solver, samples, stage, validate, generator, clock, clock())
    kept, best, epoch, finished = copied(network.state_dict()), -math.inf, 0, False
    last: State | None = None
    if state is not None:
        loop.go_on_from(state)
        kept, best, epoch = copied(state.kept), state.best, state.epoch
        finished = bool(solver.memory.get("finished", False))
    try:
        while epoch == 0 or (loop.spent(epoch) < 1 and not finished):
            outcome = loop.epoch()
            epoch, finished = epoch + 1, outcome.finished
            solver.memory["finished"] = finished
            scores = loop.validated()
            better = scores[stage.goal] > best
            if better:
                best, kept = scores[stage.goal], copied(network.state_dict())
            last = loop.state(epoch, best, kept)
            yield Progress(
                epoch,
                loop.spent(epoch),
                loop.seconds(),
                outcome.length,
                outcome.terms,
                scores,
                better,
                last,
                outcome.details,
            )
        warn_of_no_best(best, stage.goal)
    finally:
        put_back(network, kept, last)


@dataclass
class _Loop:
    """What one generator holds while it runs."""

    network: nn.Module
    solver: Solver
    samples: Source
    stage: Stage
    validate: Validation
    generator: torch.Generator
    clock: Clock
    begin: float

    def __post_init__(self) -> None:
        self.seen: set[int] = set()
        self.modes = Modes(self.network)

    def seconds(self) -> float:
        return self.clock() - self.begin

    def spent(self, epochs: int) -> float:
        return self.stage.budget.spent(epochs, self.seconds())

    def state(self, epoch: int, best: float, kept: dict[str, Tensor]) -> State:
        return State(
            epoch,
            self.seconds(),
            best,
            self.network.state_dict(),
            kept,
            {},
            dict(self.solver.memory),
            self.generator.get_state(),
        )

    def go_on_from(self, state: State) -> None:
        self.network.load_state_dict(state.network)
        self.solver.memory.clear()
        self.solver.memory.update(state.optimiser)
        self.generator.set_state(state.generator)
        self.begin = self.clock() - state.seconds
        self.seen = {0, 1}  # it was looked at before

    def epoch(self) -> Outcome:
        """One step a batch; the mean of the terms, the longest step, details of the last."""
        self.modes.restore()
        outcomes = []
        for x, labels in self.samples.batches(self.stage.batch_size, self.generator):
            x, labels = x.to(self.stage.device), labels.to(self.stage.device)
            _require_finite(x)
            classes = not labels.is_floating_point()  # else they are targets
            if len(self.seen) < 2 and classes:
                self.seen |= {int(labels.min()), int(labels.max())}
            outcomes.append(self.solver.step(x, labels))
            if self.spent(0) >= 1 or outcomes[-1].finished:
                break
        if not outcomes:
            raise ValueError("the source gave no batch in an epoch; it needs one sample at least")
        whole = len(outcomes) * self.stage.batch_size >= self.samples.count
        if classes and whole:  # else there is more to see
            _require_two(self.seen)
        return _together(outcomes)

    def validated(self) -> dict[str, float]:
        scores = self.validate(self.network)
        if self.stage.goal not in scores:
            raise ValueError(f"the goal {self.stage.goal!r} is none of {', '.join(scores)}")
        return scores


def _require_still(network: nn.Module) -> None:
    """A product J v is taken many times at one point."""
    for name, part in network.named_modules():
        if isinstance(part, _NormBase) and part.track_running_stats and part.training:
            raise ValueError(
                f"{type(part).__name__} at {name or 'the top'} moves its statistics with every evaluation, of which a step"
                " takes many: call .eval() on it, use a norm without a memory, or descend"
            )


def _together(outcomes: list[Outcome]) -> Outcome:
    count = len(outcomes)
    terms = {
        name: sum(outcome.terms[name] for outcome in outcomes) / count for name in outcomes[0].terms
    }
    last = outcomes[-1]
    return Outcome(terms, last.details, max(each.length for each in outcomes), last.finished)


def _require_finite(x: Tensor) -> None:
    if not bool(x.isfinite().all()):
        raise ValueError("x must be finite, but it holds NaN or inf; clean the samples first")


def _require_two(seen: set[int]) -> None:
    if len(seen) < 2:
        raise ValueError(
            f"every label is {min(seen)}: nothing can be learned from one class; use samples of at least two"
        )
