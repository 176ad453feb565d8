"""Tasks of classification: one label an input; judged by accuracy, also under noise, and by growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from keelnet.analysis.scores import accuracy
from keelnet.analysis.stability import stability
from keelnet.data import digits
from keelnet.data.picture_sets import cifar10, cifar100, fashion_mnist, mnist, mnist5k, stl10
from keelnet.data.samples import Batch, InMemory
from keelnet.data.toys import ellipses, peaks, swiss_roll
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.tasks import Task, Withheld
from keelnet.learning.validation import predicted

JUDGED = 1000  # withheld samples at a time, where training takes all at once
NOISED = 2000  # samples that are judged under noise
DRAWS = 4  # of the noise, for each of them
PERTURBED = 16  # samples at which growth is measured


class Classification(Withheld):
    """Inputs with one label each, with a test set that training does not see where there is one.

    noises: standard deviations of the Gaussian noise that inputs are judged under, in standard
    deviations of the inputs.
    """

    per_pixel, goal = False, "accuracy"
    noises: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    samples: InMemory

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": accuracy(logits, labels)}

    def final_scores(self, network: nn.Module, best: dict[str, float]) -> dict[str, Any]:
        """Accuracy on withheld and test samples and under noise, and the growth of a perturbation."""
        scores: dict[str, Any] = {"validation_accuracy": best["accuracy"]}
        if self.samples.test is not None:
            scores["test_accuracy"] = self._accuracy(network, self.samples.test)
        return scores | {
            "accuracy_under_noise": {
                f"{noise:g}": self._under_noise(network, noise) for noise in self.noises
            },
            "growth": self._growth(network),
        }

    def _accuracy(self, network: nn.Module, pair: Batch) -> float:
        return accuracy(predicted(network, pair[0], self.batch, self.device), pair[1])

    def _under_noise(self, network: nn.Module, noise: float) -> float:
        """Of test samples (withheld ones where there are none), the same noise for every network."""
        x, labels = _spread(self.samples.test or self.samples.validation, NOISED)
        generator = torch.Generator().manual_seed(0)
        size = noise * float(x.std())
        every = [
            self._accuracy(network, (x + size * torch.randn(x.shape, generator=generator), labels))
            for _ in range(DRAWS if len(x) < NOISED else 1)
        ]
        return sum(every) / len(every)

    def _growth(self, network: nn.Module) -> float | None:
        """σ_max of the Jacobian of a block, the largest over blocks and some withheld samples; None if unbounded."""
        x, _ = _spread(self.samples.validation, PERTURBED)
        growth = max(block.growth for block in stability(network, x.to(self.device)).blocks)
        return growth if math.isfinite(growth) else None


def _spread(pair: Batch, count: int) -> Batch:
    """At most ``count`` samples, from all over the set: it may be ordered by class."""
    step = -(-len(pair[0]) // count)
    return pair[0][::step], pair[1][::step]


class Plane(Classification):
    """Points in the plane; a picture shows which class the network sees where."""

    inputs, dim = 2, 0
    noises = (0.05, 0.1, 0.2)

    def pictures(self, network: nn.Module) -> dict[str, bytes]:
        from keelnet.experiments.planes import decisions

        def named(points: Tensor) -> Tensor:
            return predicted(network, points, len(points), self.device).argmax(dim=1)

        return {"decisions.png": decisions(named, self.samples)}


class TwoClasses(Plane):
    """Ellipses, Swiss roll."""

    outputs = 2


class Peaks(Plane):
    """Five levels of a landscape."""

    outputs = 5


class Grey(Classification):
    """Ten classes: digits, MNIST and what has its form."""

    inputs, outputs = 1, 10


class Colour(Classification):
    """CIFAR-10 and STL-10."""

    inputs, outputs = 3, 10


class Colour100(Classification):
    """CIFAR-100."""

    inputs, outputs = 3, 100


Maker = Callable[[Path | None, int], InMemory]
KINDS: dict[str, tuple[type[Classification], Maker]] = {
    "digits": (Grey, lambda folder, seed: digits(seed=seed)),
    "ellipses": (TwoClasses, lambda folder, seed: ellipses(seed)),
    "swiss_roll": (TwoClasses, lambda folder, seed: swiss_roll(seed)),
    "peaks": (Peaks, lambda folder, seed: peaks(seed)),
    "mnist5k": (Grey, lambda folder, seed: mnist5k(seed)),
    "mnist": (Grey, mnist),
    "fashion_mnist": (Grey, fashion_mnist),
    "cifar10": (Colour, cifar10),
    "cifar100": (Colour100, cifar100),
    "stl10": (Colour, stl10),
}
CLASSIFICATION_TASKS: dict[str, type[Task]] = {name: kind for name, (kind, _) in KINDS.items()}


def classification_task(recipe: Recipe, device: torch.device) -> Classification:
    """The task of a recipe of classification; raises ValueError where its data are not here."""
    kind, made = KINDS[recipe.data]
    try:
        samples = made(None if recipe.folder is None else Path(recipe.folder), recipe.seed)
    except ImportError as error:
        raise ValueError(str(error)) from error
    if recipe.samples is not None:
        samples = samples.fewer(recipe.samples, recipe.seed)
    return kind(samples, recipe.batch or JUDGED, device)
