"""Judging: what a network labels on whole cases, as they are and under noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from cohort import Cohort
from numpy.typing import NDArray
from settings import Space
from torch import nn

from keelnet.analysis.regions import region_dice
from keelnet.data.conventions import REGIONS
from keelnet.data.prepared import Volume
from keelnet.learning.regions import classes_of

UNIT = 8  # sides that every contestant can halve


@dataclass(frozen=True, eq=False)
class Look:
    """A whole case in the middle of a patch, as networks are trained on it."""

    volume: Volume
    patch: Space

    def classes(self, network: nn.Module, noise: float = 0.0, seed: int = 0) -> NDArray[np.uint8]:
        """What the network finds where the brain is. noise: deviation of what is added there."""
        x = np.asarray(self.volume.x, np.float32)
        if noise:
            random = np.random.default_rng(seed)
            x = x + noise * random.standard_normal(x.shape, np.float32) * (x != 0).any(0)
        sides = [
            max(wide, -(-side // UNIT) * UNIT)
            for side, wide in zip(self.volume.space, self.patch, strict=True)
        ]
        starts = [(wide - side) // 2 for side, wide in zip(self.volume.space, sides, strict=True)]
        inside = tuple(
            slice(start, start + side)
            for start, side in zip(starts, self.volume.space, strict=True)
        )
        padded = np.zeros((len(x), *sides), np.float32)
        padded[(slice(None), *inside)] = x
        mode = network.training
        network.eval()
        try:
            with torch.no_grad():
                logits = network(torch.from_numpy(padded)[None])
        finally:
            network.train(mode)
        found: NDArray[np.uint8] = classes_of(logits)[0].numpy()[inside]
        return found


def dice(found: NDArray[np.uint8], volume: Volume) -> dict[str, float]:
    """Of each region."""
    return {
        name: region_dice(np.isin(found, members), np.isin(volume.classes, members))
        for name, members in REGIONS.items()
    }


def mean_dice(network: nn.Module, looks: Sequence[Look]) -> float:
    """Over cases and regions."""
    scores = [dice(look.classes(network), look.volume) for look in looks]
    return float(np.mean([[*score.values()] for score in scores]))


def judged(
    network: nn.Module, cohort: Cohort, patch: Space, noise: float = 0.0
) -> dict[str, list[float]]:
    """A number a case: Dice of each region, and the share of its look-alikes that are called tumour."""
    columns: dict[str, list[float]] = {name: [] for name in (*REGIONS, "mimics")}
    for number, volume in enumerate(cohort.volumes):
        found = Look(volume, patch).classes(network, noise, seed=number)
        mimics = cohort.mimics(volume.name)
        for name, value in dice(found, volume).items():
            columns[name].append(value)
        columns["mimics"].append(float((found[mimics] > 0).mean()) if mimics.any() else 0.0)
    return columns
