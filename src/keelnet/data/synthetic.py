"""Synthetic cases: tumours grown on the ICBM152 head, imaged in four modalities, deterministic for a seed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import nibabel
import numpy as np
from numpy.typing import NDArray

from keelnet.data.brain import BrainMaps, load_icbm152
from keelnet.data.contrast import Contrast
from keelnet.data.conventions import CONVENTIONS, MODALITIES, Convention
from keelnet.data.rating import Rater
from keelnet.data.subjects import Heads
from keelnet.data.tumours import Lesions, Tumours

nib: Any = nibabel  # its own types say less than it does

Layout = Literal["brats2021", "brats2023", "msd"]
LAYOUTS: tuple[str, ...] = get_args(Layout)

# Suffixes of the modalities, in the order of ``MODALITIES``, and of the labels.
_SUFFIXES = {
    "brats2021": ("_flair", "_t1", "_t1ce", "_t2", "_seg"),
    "brats2023": ("-t2f", "-t1n", "-t1c", "-t2w", "-seg"),
}


@dataclass(frozen=True, eq=False)
class SyntheticCase:
    """x (4, right, anterior, superior) float32, 0 outside the brain; lesions as rated; affine in mm."""

    x: NDArray[np.float32]
    lesions: Lesions
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Synthesis:
    """A set without end: case ``number`` of a seed is always the same one.

    resolution in mm: 2 (ships with keelnet), 1 (needs nilearn), 4 (each axis halved).
    """

    seed: int = 0
    resolution: int = 2
    heads: Heads = field(default_factory=Heads)
    tumours: Tumours = field(default_factory=Tumours)
    contrast: Contrast = field(default_factory=Contrast)
    rater: Rater = field(default_factory=Rater)

    def __post_init__(self) -> None:
        _atlas(self.resolution)  # raises ValueError for a resolution that there is not

    def case(self, number: int) -> SyntheticCase:
        """The case of this number."""
        if number < 0:
            raise ValueError(f"cases are counted from 0, got {number}")
        random = np.random.default_rng([self.seed, number])
        head = self.heads.drawn(_atlas(self.resolution), random)
        truth = self.tumours.drawn(head, random)
        x = self.contrast.drawn(head, truth, random)
        rated = Lesions(self.rater.drawn(truth.classes, random) * head.mask, truth.mimics)
        return SyntheticCase(x, rated, head.affine)


@functools.cache
def _atlas(resolution: int) -> BrainMaps:
    return load_icbm152(resolution)


def write_cases(
    synthesis: Synthesis, out: Path, cases: int, layout: str, first: int = 0
) -> Iterator[tuple[str, SyntheticCase]]:
    """Write cases one after the other as a published set is laid out; yields name and case.

    Raises ValueError for an unknown layout and where a case would overwrite a file.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; known are {', '.join(LAYOUTS)}")
    convention = CONVENTIONS[layout]
    for number in range(first, first + cases):
        case = synthesis.case(number)
        name = case_name(layout, number)
        files = dict(_files(case, out, name, layout, convention))
        for path in files:
            if path.exists():
                raise ValueError(f"{path} exists; choose another folder")
        for path, values in files.items():
            _write(path, values, case.affine)
        yield name, case


def case_name(layout: str, number: int) -> str:
    """What case ``number`` of a set of this layout is called."""
    return {
        "brats2021": f"BraTS2021_{number:05d}",
        "brats2023": f"BraTS-GLI-{number:05d}-000",
        "msd": f"BRATS_{number + 1:03d}",
    }[layout]


def _files(
    case: SyntheticCase, out: Path, name: str, layout: str, convention: Convention
) -> Iterator[tuple[Path, NDArray[np.generic]]]:
    volumes = np.rint(case.x).astype(np.int16)
    labels = convention.to_file(case.lesions.classes)
    mimics = convention.to_file(case.lesions.mimics)
    if layout == "msd":
        yield out / "imagesTr" / f"{name}.nii.gz", np.moveaxis(volumes, 0, -1)
        yield out / "labelsTr" / f"{name}.nii.gz", labels
        yield out / "mimicsTr" / f"{name}.nii.gz", mimics
        return
    suffixes = _SUFFIXES[layout]
    for volume, suffix in zip(volumes, suffixes, strict=False):
        yield out / name / f"{name}{suffix}.nii.gz", volume
    yield out / name / f"{name}{suffixes[-1]}.nii.gz", labels
    yield out / name / f"{name}{suffixes[-1][0]}mimics.nii.gz", mimics


def _write(path: Path, values: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    temporary = path.with_name(f".writing-{path.name}")
    try:
        nib.save(image, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def dataset_json(cases: int) -> dict[str, object]:
    """What the Decathlon keeps beside its volumes."""
    title = {"flair": "FLAIR", "t1": "T1w", "t1ce": "T1gd", "t2": "T2w"}
    files = [f"{case_name('msd', number)}.nii.gz" for number in range(cases)]
    return {
        "name": "synthetic tumours on a real atlas",
        "tensorImageSize": "4D",
        "modality": {str(at): title[name] for at, name in enumerate(MODALITIES)},
        "labels": {
            "0": "background",
            "1": "edema",
            "2": "non-enhancing tumor",
            "3": "enhancing tumour",
        },
        "numTraining": cases,
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{each}", "label": f"./labelsTr/{each}"} for each in files
        ],
        "test": [],
    }
