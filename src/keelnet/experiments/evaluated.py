"""What an evaluation finds of one case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keelnet.analysis.regions import RegionScore
from keelnet.analysis.uncertainty import Sensitivity


@dataclass(frozen=True)
class Evaluated:
    """One case: scores by region, mean entropy in bits over the brain, sensitivity, and ml found on look-alikes.

    mimics_ml is None where the case has no file of look-alikes, as published sets have none. trained_on: the network
    has seen the case in training, a copy of it, or another scan of its patient.
    """

    name: str
    regions: dict[str, RegionScore]
    entropy: float
    sensitivity: Sensitivity
    mimics_ml: float | None
    trained_on: bool = False

    @property
    def mean_dice(self) -> float:
        return float(np.mean([score.dice for score in self.regions.values()]))
