"""Cohort: synthetic cases, prepared once, with the mask of their look-alikes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from settings import Settings

from keelnet.data.prepared import Prepared, Volume, brain_box
from keelnet.data.scans import Scan
from keelnet.data.synthetic import Synthesis
from keelnet.data.volumes import Geometry
from keelnet.experiments.scan_sets import EDITION

# A seed of the generator each: no case of one set is a case of another.
SEEDS = {"training": 101, "validation": 102, "test": 103}


@dataclass(frozen=True)
class Cohort:
    """The first ``cases`` of a set at a resolution (mm), under a folder that several comparisons share."""

    root: Path
    kind: str
    cases: int
    resolution: int

    @classmethod
    def of(cls, root: Path, kind: str, settings: Settings) -> Cohort:
        return cls(root, kind, getattr(settings, kind), settings.resolution)

    @property
    def prepared(self) -> Prepared:
        return Prepared(self.root / f"{self.kind}-{self.resolution}mm")

    @property
    def names(self) -> list[str]:
        return [_name(number) for number in range(self.cases)]

    @property
    def volumes(self) -> list[Volume]:
        return self.prepared.volumes(self.names)

    def mimics(self, name: str) -> NDArray[np.bool_]:
        """Where look-alikes are, which are no tumour."""
        mask: NDArray[np.bool_] = np.load(self.prepared.folder / f"{name}.mimics.npy")
        return mask

    def missing(self) -> list[int]:
        return [number for number in range(self.cases) if not self._there(number)]

    def _there(self, number: int) -> bool:
        return self.prepared.has(_name(number), self._signature(number))

    def _signature(self, number: int) -> str:
        return f"{SEEDS[self.kind]}/{number}/{self.resolution}/{EDITION}"

    def make(self, number: int) -> None:
        """Draw and prepare a case; the look-alikes first, for a case counts once its volumes are there."""
        case = Synthesis(SEEDS[self.kind], self.resolution).case(number)
        shape = case.lesions.classes.shape
        geometry = Geometry((shape[0], shape[1], shape[2]), case.affine, nibabel.Nifti1Header())
        scan = Scan(_name(number), case.x, case.lesions.classes, geometry)
        mask = ((case.lesions.mimics > 0) & (case.lesions.classes == 0))[brain_box(case.x)]
        folder = self.prepared.folder
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{_name(number)}.mimics.new"
        with temporary.open("wb") as file:
            np.save(file, mask)
        os.replace(temporary, folder / f"{_name(number)}.mimics.npy")
        self.prepared.add(scan, signature=self._signature(number))


def _name(number: int) -> str:
    return f"case-{number:05d}"


def make_missing(cohorts: Sequence[Cohort], processes: int = 2) -> None:
    """Every case that is not there yet."""
    waiting = [(cohort, number) for cohort in cohorts for number in cohort.missing()]
    if not waiting:
        return
    print(f"making {len(waiting)} cases in {cohorts[0].root}", file=sys.stderr, flush=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        futures = [pool.submit(cohort.make, number) for cohort, number in waiting]
        for count, done in enumerate(as_completed(futures), 1):
            done.result()
            if count % 50 == 0:
                print(f"{count} of {len(waiting)} made", file=sys.stderr, flush=True)
