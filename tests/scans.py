"""Small folders of scans, laid out as the published sets are."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

SHAPE = (9, 8, 7)
OLD = {"flair": "flair", "t1": "t1", "t1ce": "t1ce", "t2": "t2"}
NEW = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}
RAS = np.diag([2.0, 2.0, 2.0, 1.0])


def classes(shape=SHAPE) -> np.ndarray:
    """Every class somewhere, each in another number of voxels, and nothing symmetric."""
    found = np.zeros(shape, np.uint8)
    found[1:6, 2:5, 1:4] = 2
    found[2:5, 2:4, 2:4] = 3
    found[3, 2, 2:4] = 1
    return found


def volumes(seed: int = 0, shape=SHAPE) -> np.ndarray:
    found = np.random.default_rng(seed).uniform(1, 900, (4, *shape)).astype(np.float32)
    found[:, 0] = 0
    return found


def write(path: Path, values: np.ndarray, affine: np.ndarray = RAS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def write_case(folder, name, words=OLD, values=(1, 2, 4), separator="_", affine=RAS, seed=0, suffix=".nii.gz"):  # fmt: skip
    """One case: four files and its labels, of which ``values`` are necrosis, edema, enhancing."""
    for volume, modality in zip(volumes(seed), ("flair", "t1", "t1ce", "t2"), strict=True):
        write(folder / name / f"{name}{separator}{words[modality]}{suffix}", volume, affine)
    labels = np.array([0, *values], np.uint8)[classes()]
    write(folder / name / f"{name}{separator}seg{suffix}", labels, affine)
    return folder / name


def write_decathlon(folder: Path, name: str) -> None:
    write(folder / "imagesTr" / f"{name}.nii.gz", np.moveaxis(volumes(), 0, -1))
    write(folder / "labelsTr" / f"{name}.nii.gz", np.array([0, 2, 1, 3], np.uint8)[classes()])
    (folder / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"what a Mac leaves")
