"""Multilevel training: on few layers first, then on the same θ(t) with twice as many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from keelnet.data.samples import Source
from keelnet.dynamics.controls import Control
from keelnet.learning.descent import descend
from keelnet.learning.gauss_newton import GaussNewton
from keelnet.learning.modes import Modes
from keelnet.learning.objective import Objective
from keelnet.learning.processes import Team
from keelnet.learning.progress import Clock, Progress, State
from keelnet.learning.training import Training
from keelnet.learning.validation import Validation
from keelnet.networks.blocks import Block
from keelnet.networks.network import blocks_of, named_blocks

# `descend`, `gauss_newton`, `block_descent` or `varpro`.
Trainer = Callable[..., Iterator[Progress]]


def multilevel(
    network: nn.Module,
    objective: Objective,
    samples: Source,
    settings: Sequence[Training | GaussNewton],
    validate: Validation,
    generator: torch.Generator,
    clock: Clock = time.monotonic,
    state: State | None = None,
    team: Team | None = None,
    trainer: Trainer = descend,
) -> Iterator[Progress]:
    """Train, then refine every block in place to twice the layers and train on: a level for each of ``settings``.

    The network given is the coarsest; at the end it has 2^(levels − 1) times the layers and holds the best
    iterate of the finest level. Epochs and seconds count through; ``spent`` is that of all levels, each an equal share;
    ``best`` starts anew at every level, as a coarser network cannot be kept for a finer one; details tell the
    level and depth. A ``state`` goes on from any level, on the network as it was at the start.
    """
    if not settings:
        raise ValueError("settings must hold one for each level, at least one")
    if not blocks_of(network):
        raise ValueError("the network has no block to refine; use the trainer itself")
    _require_parents(network)
    level, before, inner = 0, (0, 0.0), None
    if state is not None:
        level, before, inner = _unpacked(state)
    for _ in range(level):
        refine(network)
    for number in range(level, len(settings)):
        progress, modes = None, Modes(network)
        for progress in trainer(
            network, objective, samples, settings[number], validate, generator, clock, inner, team
        ):
            yield _through(progress, number, len(settings), before, blocks_of(network)[0].depth)
        if progress is not None:
            before = (before[0] + progress.epoch, before[1] + progress.seconds)
        elif inner is not None:  # the state was that of a level's last epoch
            before = (before[0] + inner.epoch, before[1] + inner.seconds)
        inner = None
        if number + 1 < len(settings):
            modes.restore()  # whoever looked at the network may have left it in evaluation mode
            refine(network)


def refine(network: nn.Module, factor: int = 2) -> None:
    """Replace every block of a network by the same θ(t) and T on ``factor`` times as many layers.

    Blocks, controls and parameters of fields that stand in several places stay shared. Raises ValueError for a network
    that is a block.
    """
    _require_parents(network)
    finer: dict[Block, Block] = {}
    controls: dict[Control, Control] = {}
    for place, block in [*named_blocks(network)]:
        if block not in finer:
            finer[block] = block.refined(factor, tied=True)
            finer[block].control = controls.setdefault(block.control, finer[block].control)
        parent, _, name = place.rpartition(".")
        setattr(network.get_submodule(parent), name, finer[block])


def _require_parents(network: nn.Module) -> None:
    if isinstance(network, Block):
        raise ValueError(
            "a block cannot be replaced by a finer one in place; use block.refined(), or put it into a Network"
        )


def _through(
    progress: Progress, level: int, levels: int, before: tuple[int, float], depth: int
) -> Progress:
    """Progress of one level as that of all of them."""
    epochs, seconds = before
    packed = {
        "level": level,
        "epochs": epochs,
        "seconds": seconds,
        "inner": progress.state.optimiser,
    }
    return replace(
        progress,
        epoch=epochs + progress.epoch,
        seconds=seconds + progress.seconds,
        spent=(level + progress.spent) / levels,
        state=replace(
            progress.state,
            epoch=epochs + progress.state.epoch,
            seconds=seconds + progress.state.seconds,
            optimiser=packed,
        ),
        details={**progress.details, "level": float(level), "depth": float(depth)},
    )


def _unpacked(state: State) -> tuple[int, tuple[int, float], State]:
    """The level, what was before it, and the state that its own trainer goes on from."""
    packed = state.optimiser
    if "level" not in packed:
        raise ValueError(
            "the state is not that of a multilevel training; go on with its own trainer"
        )
    epochs, seconds = packed["epochs"], packed["seconds"]
    inner = replace(
        state,
        epoch=state.epoch - epochs,
        seconds=state.seconds - seconds,
        optimiser=packed["inner"],
    )
    return packed["level"], (epochs, seconds), inner
