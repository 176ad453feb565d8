"""Ceiling: how well the tumours as they were grown agree with the labels, which are a reader's."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cohort import SEEDS, Cohort
from jobs import rounded
from judging import dice
from schedule import REGIONS

from keelnet.data.prepared import brain_box
from keelnet.data.rating import Rater
from keelnet.data.synthetic import Synthesis


@dataclass(frozen=True)
class Ceiling:
    """What a network that knew the truth would score: Dice of each region, a number a case.

    Nothing shows where a reader's edge leaves the tumour's, so no network is expected to score more.
    """

    columns: dict[str, list[float]]

    @classmethod
    def of(cls, cohort: Cohort) -> Ceiling:
        """Of prepared cases, which are drawn again without the reader."""
        exact = Synthesis(SEEDS[cohort.kind], cohort.resolution, rater=Rater(deviation=0))
        columns: dict[str, list[float]] = {name: [] for name in REGIONS}
        for number, volume in enumerate(cohort.volumes):
            case = exact.case(number)
            for name, value in dice(case.lesions.classes[brain_box(case.x)], volume).items():
                columns[name].append(value)
        return cls(rounded(columns))

    @classmethod
    def read(cls, path: Path) -> Ceiling | None:
        """What was written; None where nothing was."""
        return cls(json.loads(path.read_text())) if path.exists() else None

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        temporary = path.with_suffix(f".{os.getpid()}.new")
        temporary.write_text(json.dumps(self.columns) + "\n")
        temporary.replace(path)

    def mean(self, column: str = "mean") -> float:
        """Over cases; of the three regions where none is named."""
        names = REGIONS if column == "mean" else (column,)
        return float(np.mean([self.columns[name] for name in names]))
