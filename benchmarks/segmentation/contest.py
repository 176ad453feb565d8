"""Contest: one contestant trained with a budget of seconds, and what it then does on cases."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from cohort import Cohort
from contestants import Contestant
from judging import Look, mean_dice
from settings import Settings
from torch import Tensor, nn

from keelnet.data.patches import Patches
from keelnet.data.prepared import Volume
from keelnet.data.samples import WHOLE, Batch, Share
from keelnet.learning.descent import descend
from keelnet.learning.methods import Adam
from keelnet.learning.objective import Objective
from keelnet.learning.progress import Progress
from keelnet.learning.regions import region_loss
from keelnet.learning.training import Budget, Training

BINS = 40  # of the budget: the training loss is kept as its mean over each


@dataclass
class Stopwatch:
    """Seconds of the day or of the process, standing still while it is ``paused``."""

    kind: str
    _lost: float = 0.0

    def __call__(self) -> float:
        return self._now() - self._lost

    def _now(self) -> float:
        return time.process_time() if self.kind == "cpu" else time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        begin = self._now()
        try:
            yield
        finally:
            self._lost += self._now() - begin


@dataclass
class Losses:
    """The loss of regions, which remembers when it was what."""

    clock: Stopwatch
    begin: float = 0.0
    seen: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, logits: Tensor, classes: Tensor) -> Tensor:
        value = region_loss(logits, classes)
        self.seen.append((self.clock() - self.begin, float(value.detach())))
        return value

    def binned(self, seconds: float) -> list[float | None]:
        """Means over equal shares of the budget; None where no step ended."""
        bins: list[list[float]] = [[] for _ in range(BINS)]
        for at, value in self.seen:
            bins[min(BINS - 1, int(BINS * at / seconds))].append(value)
        return [sum(values) / len(values) if values else None for values in bins]


@dataclass
class Loading:
    """Patches whose seconds are told apart: they are the same for everyone."""

    patches: Patches
    clock: Stopwatch
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return self.patches.count

    def batches(
        self, batch_size: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Iterator[Batch]:
        """One epoch, see `Source.batches`."""
        batches = self.patches.batches(batch_size, generator, share)
        while True:
            begin = self.clock()
            batch = next(batches, None)
            self.seconds += self.clock() - begin
            if batch is None:
                return
            yield batch


@dataclass(frozen=True)
class Contest:
    """One run: a contestant, its learning rate, a seed and the seconds it is given."""

    settings: Settings
    contestant: Contestant
    rate: float
    seed: int
    seconds: float
    training: Cohort
    validation: Cohort

    def trained(self) -> tuple[nn.Module, dict[str, Any]]:
        """The network at its best iterate by the judged validation cases, and how it got there."""
        settings, clock = self.settings, Stopwatch(self.settings.clock)
        self._warm_up()
        network = self.contestant.network(self.seed, settings.scale, settings.shift)
        judged = [Look(volume, settings.patch) for volume in self.validation.volumes]
        judged = judged[: settings.judged]

        def validate(network: nn.Module) -> dict[str, float]:
            with clock.paused():
                return {"mean_dice": mean_dice(network, judged)}

        losses = Losses(clock, clock())
        loading = Loading(self._patches(self.training.volumes, settings.epoch), clock)
        progress = descend(
            network,
            Objective(losses),
            loading,
            self._method(),
            validate,
            torch.Generator().manual_seed(self.seed),
            clock,
        )
        history, diverged = [], ""
        try:
            history += [_line(each) for each in progress]
        except ValueError as error:
            if math.isfinite(losses.seen[-1][1]):
                raise
            diverged = str(error)
        spent, steps = losses.seen[-1][0], len(losses.seen)
        return network, {
            "diverged": diverged,
            "parameters": sum(value.numel() for value in network.parameters()),
            "steps": steps,
            "seconds": spent,
            "seconds_a_step": spent / steps,
            "seconds_without_loading": (spent - loading.seconds) / steps,
            "losses": losses.binned(self.seconds),
            "history": history,
        }

    def _warm_up(self) -> None:
        """A step of another network: what is compiled or loaded once costs nobody's seconds."""
        network = self.contestant.network(0, self.settings.scale, self.settings.shift)
        patches = self._patches(self.training.volumes[:1], self.settings.batch)
        for x, classes in patches.batches(self.settings.batch, torch.Generator().manual_seed(0)):
            region_loss(network(x), classes).backward()  # type: ignore[no-untyped-call]

    def _patches(self, volumes: list[Volume], count: int) -> Patches:
        return Patches(volumes, self.settings.cube, count, self.settings.lesion)

    def _method(self) -> Training:
        settings = self.settings
        method = Training(
            Adam(self.rate, settings.decay),
            Budget(seconds=self.seconds),
            settings.batch,
            "mean_dice",
            warmup=settings.warmup,
            clip=settings.clip,
        )
        return replace(method, **self.contestant.training)


def _line(progress: Progress) -> dict[str, float]:
    return {
        "seconds": progress.seconds,
        "loss": progress.terms["loss"],
        "mean_dice": progress.scores["mean_dice"],
    }
