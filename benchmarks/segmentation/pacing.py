"""Pacing: seconds of a training step as the comparison trains, loading left out."""

from __future__ import annotations

from typing import Any

from contest import Stopwatch
from contestants import Contestant
from settings import Settings
from torch import nn
from weighing import batch_of, step

from keelnet.learning.methods import Adam

WARM = 2  # steps that compile, load and make the optimiser's moments
STEPS, LEAST, SECONDS = 25, 5, 40.0  # so many steps; at least LEAST, then none begins after SECONDS


def paced(contestant: Contestant, settings: Settings) -> dict[str, Any]:
    """Of batch × 4 × crop³, step by step, by the clock of the runs.

    A depth costs the same at every learning rate, so none is looked for.
    """
    clock = Stopwatch(settings.clock)
    network = contestant.network(0, settings.scale, settings.shift)
    parameters = list(network.parameters())
    optimiser = Adam(1e-4, settings.decay).optimiser(parameters)
    x, classes = batch_of(settings.batch, settings.crop)
    seconds: list[float] = []
    for number in range(WARM + STEPS):
        begin = clock()
        optimiser.zero_grad(set_to_none=True)
        step(network, x, classes)
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()
        if number >= WARM:
            seconds.append(clock() - begin)
        if len(seconds) >= LEAST and sum(seconds) > SECONDS:
            break
    return {"parameters": sum(value.numel() for value in parameters), "step_seconds": seconds}
