"""Descent: training by gradients as a generator. The caller prints, saves, or stops listening."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keelnet.data.samples import Source
from keelnet.learning.modes import Modes
from keelnet.learning.objective import OF_PARAMETERS, Objective
from keelnet.learning.processes import Alone, SharedBreakdownError, SharedError, Team
from keelnet.learning.progress import Clock, Progress, State, copied, put_back, warn_of_no_best
from keelnet.learning.training import Training
from keelnet.learning.validation import Validation
from keelnet.networks.network import blocks_of
from keelnet.propagation import engine


def descend(
    network: nn.Module,
    objective: Objective,
    samples: Source,
    training: Training,
    validate: Validation,
    generator: torch.Generator,
    clock: Clock = time.monotonic,
    state: State | None = None,
    team: Team | None = None,
) -> Iterator[Progress]:
    """Train in place and yield after every epoch; at the end the network holds its best iterate.

    ``validate`` gives numbers by name of the network (see `scored`); training.goal is one of them.
    All randomness comes from ``generator``. Parts in evaluation mode within a network in training mode (norms that keep
    their statistics, say) stay in it; a network in evaluation mode as a whole is put in training mode. A consumer that
    stops early and wants the best iterate takes ``progress.state.kept`` where ``best`` is true: with ``average`` the
    network itself holds other weights than those that were validated. ``team``: the processes that descend together,
    each given the same arguments; the result is that of one process on the same batches, within rounding,
    where the loss is a mean over samples. With the ``state`` of an earlier descent of the same
    arguments it goes on as if that had not stopped. Raises ValueError for a goal that it does
    not give and where the objective becomes non-finite (`BreakdownError`; the best iterate is put back first).
    """
    loop = _Loop(
        network, objective, samples, training, validate, generator, clock, clock(), team or Alone()
    )
    kept = _snapshot(network)
    best, epoch = -math.inf, 0
    last: State | None = None
    if state is not None:
        loop.go_on_from(state)
        best, epoch, kept = state.best, state.epoch, copied(state.kept)
    try:
        while epoch == 0 or loop.spent(epoch) < 1:
            terms = loop.epoch(epoch)
            epoch += 1
            with loop.averaged_weights():
                scores = loop.validated()
                better = scores[training.goal] > best
                if better:
                    best, kept = scores[training.goal], _snapshot(network)
            last = loop.state(epoch, best, kept)
            yield Progress(
                epoch,
                loop.spent(epoch),
                loop.seconds(),
                loop.rate,
                terms,
                scores,
                better,
                last,
            )
        if loop.team.leads:
            warn_of_no_best(best, training.goal)
    finally:
        put_back(network, kept, last)


@dataclass
class _Loop:
    """What one descent holds while it runs."""

    network: nn.Module
    objective: Objective
    samples: Source
    training: Training
    validate: Validation
    generator: torch.Generator
    clock: Clock
    begin: float
    team: Team

    def __post_init__(self) -> None:
        parameters = [value for value in self.network.parameters() if value.requires_grad]
        if not parameters:
            raise ValueError("the network has no parameters to train")
        self.optimiser = self.training.method.optimiser(parameters)
        for group in self.optimiser.param_groups:  # a method's own rates keep their proportions
            group.setdefault("initial_lr", group["lr"])
        controls = [value for block in blocks_of(self.network) for value in block.control.values().values()]  # fmt: skip
        if self.training.bound is not None and not all(isinstance(each, nn.Parameter) for each in controls):  # fmt: skip
            raise ValueError(f"{OF_PARAMETERS}; use bound=None")
        if self.training.bound is not None and any(each.is_complex() for each in controls):
            raise ValueError("a bound holds real controls, but one is complex; use bound=None")
        self.averaged = {} if self.training.average is None else _snapshot(self.network)
        self.forward = self.team.wrapped(self.network)
        self.modes = Modes.for_training(self.network)

    def seconds(self) -> float:
        """Since the start, by the leader's clock: all must stop at the same step."""
        own = self.clock() - self.begin if self.team.leads else 0.0
        return float(self.team.total(torch.tensor([own], dtype=torch.float64)))

    def state(self, epoch: int, best: float, kept: dict[str, Tensor]) -> State:
        """Everything that the descent goes on from after this epoch."""
        return State(
            epoch,
            self.seconds(),
            best,
            self.network.state_dict(),
            kept,
            self.averaged,
            self.optimiser.state_dict(),
            self.generator.get_state(),
        )

    def go_on_from(self, state: State) -> None:
        """Be where an earlier descent was."""
        self.network.load_state_dict(state.network)
        # It would take the tensors themselves, and change them with its next step.
        self.optimiser.load_state_dict(copy.deepcopy(state.optimiser))
        self.generator.set_state(state.generator)
        self.averaged = copied(state.averaged, self.training.device)
        self.begin = self.clock() - state.seconds

    def spent(self, epochs: float) -> float:
        timed = self.training.budget.seconds is not None  # else none need agree on a clock
        return self.training.budget.spent(epochs, self.seconds() if timed else 0.0)

    @property
    def rate(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    def epoch(self, number: int) -> dict[str, float]:
        """One pass: the mean of each term. The rate moves within it, too; stops where the time is gone."""
        self.modes.restore()
        sums: dict[str, float] = {}
        count = 0
        size = self.training.batch_size
        for x, labels in self.samples.batches(size, self.generator, self.team.share):
            self._set_rate(self.spent(number + count * size / self.samples.count))
            where = f"epoch {number + 1}, batch {count + 1}"
            for name, value in self._step(x, labels, self._weight(count), where):
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            if self.spent(0) >= 1:
                break
        if not count:
            raise SharedError("the source gave no batch in an epoch; it needs one sample at least")
        means = torch.tensor([*sums.values()], dtype=torch.float64) / count
        every = self.team.total(means) / self.team.share.size
        return dict(zip(sums, every.tolist(), strict=True))

    def _step(
        self, x: Tensor, labels: Tensor, weight: float, where: str
    ) -> list[tuple[str, float]]:
        x, labels = x.to(self.training.device), labels.to(self.training.device)
        first: list[tuple[str, float]] = []

        def evaluated() -> float:
            """The objective, its gradient left with the parameters; a search asks for it again."""
            trial = bool(first) and self.training.method.searches
            terms = self._terms(x, labels, weight, trial)
            value = self._gradient(terms, where, trial) if terms else self._refused()
            if not first:
                first.extend((name, float(term.detach())) for name, term in terms.items())
            return value

        self.optimiser.step(evaluated)
        self._project()
        self._average()
        return first

    def _terms(self, x: Tensor, labels: Tensor, weight: float, trial: bool) -> dict[str, Tensor]:
        """By name; of a trial none where it cannot be evaluated: x was before, so it is its parameters."""
        try:
            with self._precision():
                logits = self.forward(x)
            terms = self.objective.terms(self.network, logits, labels)
        except ValueError as error:  # of these samples: the others wait for their objective
            self.team.total(next(self.network.parameters()).new_tensor(math.nan))
            if trial:
                return {}
            self.team.agree(error)
            raise
        terms["loss"] = terms["loss"] * weight
        return terms

    def _refused(self) -> float:
        """What a search is given for a trial without a finite objective: torch's then halves its bracket."""
        for value in self._moved():
            value.grad = torch.full_like(value, math.nan)
        return math.inf

    def _gradient(self, terms: dict[str, Tensor], where: str, trial: bool) -> float:
        """The mean objective of all processes; its gradient is left with the parameters."""
        total = torch.stack([*terms.values()]).sum()
        everyone = self.team.total(total.detach())
        if not bool(everyone.isfinite()):
            if trial:
                return self._refused()
            self.team.agree(None)
            raise SharedBreakdownError(
                f"the objective became {float(everyone)} in {where}; use {self.training.method.remedy}"
                " or a stable architecture"
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self.training.clip is not None:
            nn.utils.clip_grad_norm_(self._moved(), self.training.clip)
        return float(everyone) / self.team.share.size

    def _project(self) -> None:
        """Onto |θ| ≤ bound, the nearest controls within it."""
        bound = self.training.bound
        if bound is not None:
            with torch.no_grad():
                for block in blocks_of(self.network):
                    for value in block.control.values().values():
                        if value.requires_grad:
                            value.clamp_(-bound, bound)

    def _moved(self) -> list[Tensor]:
        """What the optimiser moves: a frozen parameter may hold a gradient of another training."""
        return [value for group in self.optimiser.param_groups for value in group["params"]]

    def _weight(self, number: int) -> float:
        """Of this process' loss in an epoch's batch of that number, so that their mean is one over samples."""
        if self.team.share.size == 1:
            return 1.0
        size = self.training.batch_size
        return self.team.share.weight(min(size, self.samples.count - number * size))

    def _precision(self) -> AbstractContextManager[None]:
        products = self.training.products
        return nullcontext() if products == "state" else engine(products=products)

    def _average(self) -> None:
        decay = self.training.average
        if decay is not None:
            for name, value in self.network.state_dict().items():
                if value.is_floating_point() or value.is_complex():
                    self.averaged[name].lerp_(value, 1 - decay)
                else:  # a count
                    self.averaged[name].copy_(value)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the network holds the average, if there is one."""
        own = _snapshot(self.network) if self.averaged else {}
        try:
            self.network.load_state_dict(self.averaged or self.network.state_dict())
            yield
        finally:
            if own:
                self.network.load_state_dict(own)

    def _set_rate(self, spent: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * self.training.rate_factor(spent)

    def validated(self) -> dict[str, float]:
        with self._precision():
            scores = self.team.by_leader(lambda: self.validate(self.network))
        if self.training.goal not in scores:
            raise SharedError(f"the goal {self.training.goal!r} is none of {', '.join(scores)}")
        return scores


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return copied(network.state_dict())
