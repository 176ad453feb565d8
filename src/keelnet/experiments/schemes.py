"""Schemes: how a recipe trains: by which method, and on how many layers one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from keelnet.data.samples import Source
from keelnet.experiments.recipes import CURVED, Recipe
from keelnet.learning.block_descent import block_descent
from keelnet.learning.descent import descend
from keelnet.learning.gauss_newton import GaussNewton, gauss_newton
from keelnet.learning.methods import LBFGS, SGD, Adam, Method, require_share
from keelnet.learning.multilevel import Trainer, multilevel
from keelnet.learning.objective import Objective
from keelnet.learning.processes import Team
from keelnet.learning.progress import Clock, Progress, State
from keelnet.learning.schedules import Constant, Cosine, Part, Schedule, Steps
from keelnet.learning.tangents import Differences, Forward, Stored, Tangent, Transposed
from keelnet.learning.training import Budget, Training
from keelnet.learning.validation import Validation
from keelnet.learning.varpro import varpro

SOLVERS: dict[str, Trainer] = {
    "gauss_newton": gauss_newton,
    "block_descent": block_descent,
    "varpro": varpro,
}
TANGENTS: dict[str, Tangent] = {
    "forward": Forward(),
    "transposed": Transposed(),
    "differences": Differences(),
    "stored": Stored(),
}
SCHEDULES: dict[str, Schedule] = {"cosine": Cosine(), "constant": Constant(), "steps": Steps()}
METHODS: dict[str, Callable[[Recipe], Method]] = {
    "adam": lambda recipe: Adam(recipe.rate, recipe.decay),
    "sgd": lambda recipe: SGD(recipe.rate, recipe.momentum, recipe.decay),
    "lbfgs": lambda recipe: LBFGS(iterations=recipe.inner),
}


@dataclass(frozen=True)
class Scheme:
    """A trainer, and its settings for each level, the coarsest first."""

    trainer: Trainer
    levels: tuple[Training | GaussNewton, ...]

    def require_trainable(self, network: nn.Module, objective: Objective) -> None:
        """Raise ValueError where the trainer does not take such a network or objective, whatever the samples are."""
        nothing = None, torch.Generator()  # its first step would ask for them
        self.trainer(network, objective, None, self.levels[0], *nothing)

    def steps(
        self,
        network: nn.Module,
        objective: Objective,
        source: Source,
        validate: Validation,
        generator: torch.Generator,
        clock: Clock = time.monotonic,
        state: State | None = None,
        team: Team | None = None,
    ) -> Iterator[Progress]:
        """The progress of a network that is given with the layers of the coarsest level."""
        if len(self.levels) == 1:
            (settings,) = self.levels
            return self.trainer(
                network, objective, source, settings, validate, generator, clock, state, team
            )
        return multilevel(
            network,
            objective,
            source,
            self.levels,
            validate,
            generator,
            clock,
            state,
            team,
            self.trainer,
        )


def coarsest(recipe: Recipe) -> Recipe:
    """The recipe with the layers, of every block on the way down and up, and the knots of its first level.

    Raises ValueError where these cannot be halved so often.
    """
    factor = _factor(recipe)
    depth, knots = _divided("depth", recipe.depth, factor, recipe), recipe.knots
    rise = _divided("rise", recipe.rise, factor, recipe) if _goes_up(recipe) else recipe.rise
    if knots is not None:
        knots = _fewer("knots", knots, factor, recipe)
    return replace(recipe, depth=depth, rise=rise, knots=knots)


def _goes_up(recipe: Recipe) -> bool:
    """Whether rise means any block: of one width there is none."""
    return isinstance(recipe.width, tuple) and len(recipe.width) > 1


def _divided(
    name: str, layers: int | tuple[int, ...], factor: int, recipe: Recipe
) -> int | tuple[int, ...]:
    """One number stays one, since it stands for as many as there are blocks."""
    if isinstance(layers, int):
        return _fewer(name, layers, factor, recipe)
    return tuple(_fewer(name, each, factor, recipe) for each in layers)


def _fewer(name: str, value: int, factor: int, recipe: Recipe) -> int:
    if value % factor:
        raise ValueError(
            f"{name} must be divisible by {factor} to be trained in {recipe.levels} levels, got {value}"
        )
    return value // factor


def _factor(recipe: Recipe) -> int:
    if not 1 <= recipe.levels <= 16:
        raise ValueError(f"levels must lie between 1 and 16, got {recipe.levels}")
    return int(2 ** (recipe.levels - 1))


def scheme_of(recipe: Recipe, goal: str, batch: int, device: torch.device) -> Scheme:
    """How the recipe trains; ``batch``: its own, or how many all samples are."""
    curved = recipe.method in CURVED
    make = _gauss_newton if curved else _training
    levels = tuple(
        make(recipe, level, budget, goal, batch, device)
        for level, budget in enumerate(_budgets(recipe))
    )
    return Scheme(SOLVERS[recipe.method] if curved else descend, levels)


def _budgets(recipe: Recipe) -> list[Budget]:
    """Equal parts; epochs that are left over are the finest level's."""
    seconds = None if recipe.minutes is None else 60 * recipe.minutes / recipe.levels
    if recipe.epochs is None:
        return [Budget(None, seconds)] * recipe.levels
    if recipe.epochs < recipe.levels and recipe.levels > 1:
        raise ValueError(f"epochs must be at least the {recipe.levels} levels, got {recipe.epochs}")
    each, rest = divmod(recipe.epochs, recipe.levels)
    last = [False] * (recipe.levels - 1) + [True]
    return [Budget(each + rest if final else each, seconds) for final in last]


def _training(
    recipe: Recipe, level: int, budget: Budget, goal: str, batch: int, device: torch.device
) -> Training:
    method = METHODS[recipe.method](recipe)
    if method.searches:
        paced: dict[str, Any] = {"warmup": 0.0, "clip": None, "schedule": Constant()}
    else:
        paced = {"clip": recipe.clip, "bound": recipe.bound, **_pace(recipe, level)}
    return Training(
        method,
        budget,
        batch,
        goal,
        device=device,
        average=recipe.average,
        products=recipe.products,
        **paced,
    )


def _pace(recipe: Recipe, level: int) -> dict[str, Any]:
    """Warm-up and schedule; levels share one of each, as a full rate undoes what the level before has learned."""
    schedule, levels = SCHEDULES[recipe.schedule], recipe.levels
    if levels == 1:
        return {"warmup": recipe.warmup, "schedule": schedule}
    require_share("warmup", recipe.warmup, 1)  # what is left of it below always is one
    warmup = min(recipe.warmup, 1 / levels)
    part = Part(schedule, level / levels, (level + 1) / levels, warmup)
    return {"warmup": 0.0 if level else min(warmup * levels, 0.999), "schedule": part}


def _gauss_newton(
    recipe: Recipe, level: int, budget: Budget, goal: str, batch: int, device: torch.device
) -> GaussNewton:
    return GaussNewton(
        budget,
        batch,
        goal,
        damping=recipe.damping,
        iterations=recipe.inner,
        tangent=TANGENTS[recipe.tangent],
        share=recipe.share,
        device=device,
    )
