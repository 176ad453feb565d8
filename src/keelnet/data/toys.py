"""Toys: labelled points in the plane, the three problems of Haber and Ruthotto (2018, section 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from keelnet.data.samples import Batch, InMemory

KNOTS = 513  # points on each arm of the Swiss roll
TURNS = 2  # of each arm about the origin
GRID = 256  # points along each side of the grid on which peaks are drawn


def ellipses(seed: int = 0) -> InMemory:
    """Two nested ellipses: x = (r cos φ, 0.4 r sin φ), φ uniform in [0, 2π).

    "inner": r uniform in [0, 1); "outer": in [1, 2). x (points, 2), as many of each class: 1000 to
    train on, 200 to validate, 2000 to test, all drawn by ``seed``.
    """
    generator = torch.Generator().manual_seed(seed)
    training, validation, test = (_nested(count, generator) for count in (500, 100, 1000))
    return InMemory(training, validation, ("inner", "outer"), test=test)


def _nested(count: int, generator: torch.Generator) -> Batch:
    """``count`` points of each class."""
    labels = torch.arange(2).repeat_interleave(count)
    radius = labels + torch.rand(2 * count, generator=generator)
    angle = 2 * math.pi * torch.rand(2 * count, generator=generator)
    return torch.stack([radius * angle.cos(), 0.4 * radius * angle.sin()], dim=1), labels


def swiss_roll(seed: int = 0) -> InMemory:
    """Two arms rolled up in each other: x = r (cos θ, sin θ), θ in [0, 4π].

    "inner": r = θ / 4π; "outer": r = θ / 4π + 0.2. Each arm has 513 equally spaced θ: the odd
    ones (first, third, …) to train on, the even ones to validate. ``seed`` draws only the test set,
    1000 θ of each arm that lie anywhere on it.
    """
    knots = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    anywhere = torch.rand(1000, generator=generator, dtype=torch.float64)
    training, validation, test = map(_rolled, (knots[0::2], knots[1::2], anywhere))
    return InMemory(training, validation, ("inner", "outer"), test=test)


def _rolled(radius: Tensor) -> Batch:
    """Both arms at these r of the inner one."""
    angle = (2 * math.pi * TURNS * radius).repeat(2)
    labels = torch.arange(2).repeat_interleave(len(radius))
    radius = radius.repeat(2) + 0.2 * labels
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).float(), labels


def peaks(seed: int = 0) -> InMemory:
    """Five levels of the function `heights` on [−3, 3]², each as high as the others.

    Of the points of a 256 × 256 grid, ``seed`` draws 1000 of each level, 800 to train on and 200 to
    validate, and 500 others to test. x (points, 2).
    """
    axis = torch.linspace(-3, 3, GRID, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    levels = _levels(heights(grid), classes=5)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for level in range(5):
        points = grid[levels == level].float()
        drawn.append(points[torch.randperm(len(points), generator=generator)])
    training, validation, test = (
        (torch.cat([points[part] for points in drawn]), labels)
        for part, labels in (
            (part, torch.arange(5).repeat_interleave(part.stop - part.start))
            for part in (slice(0, 800), slice(800, 1000), slice(1000, 1500))
        )
    )
    names = ("lowest", "low", "middle", "high", "highest")
    return InMemory(training, validation, names, test=test)


def heights(points: Tensor) -> Tensor:
    """MATLAB's peaks at points (…, 2) with coordinates x and y: a sum of shifted Gaussians.

    3 (1 − x)² exp(−x² − (y + 1)²) − 10 (x/5 − x³ − y⁵) exp(−x² − y²) − ⅓ exp(−(x + 1)² − y²)
    """
    x, y = points.unbind(-1)
    return (
        3 * (1 - x) ** 2 * torch.exp(-(x**2) - (y + 1) ** 2)
        - 10 * (x / 5 - x**3 - y**5) * torch.exp(-(x**2) - y**2)
        - torch.exp(-((x + 1) ** 2) - y**2) / 3
    )


def _levels(values: Tensor, classes: int) -> Tensor:
    """0 … classes − 1: which of as many equal parts of their range the values lie in."""
    parts = (values - values.min()) / (values.max() - values.min()) * classes
    return parts.long().clamp(max=classes - 1)
