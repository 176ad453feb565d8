"""Make src/keelnet/data/icbm152_2mm.npz from the ICBM152 2009a symmetric template in nilearn.

    pip install nilearn==0.14.1
    python scripts/vendor_icbm152.py

or, without installing it, ``--nilearn nilearn-0.14.1-py3-none-any.whl``. The file holds the maps
t1, gm and wm (uint8, 99 x 117 x 95, RAS) and their affine (float64, mm), and its bytes are the same
on every run. ICBM152-NOTICE.txt, beside it, must travel with it.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

MAPS = ("t1", "gm", "wm")
SOURCE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
TARGET = Path(__file__).parents[1] / "src" / "keelnet" / "data" / "icbm152_2mm.npz"

Volume = NDArray[np.float64]


def vendor(nilearn: Path | None, target: Path) -> None:
    """Write ``target`` from a wheel, a datasets/data folder, or (None) the importable nilearn."""
    images = {name: template(nilearn, name) for name in MAPS}
    affine = common_affine(images)
    volumes = {name: np.asarray(image.dataobj, dtype=np.float64) for name, image in images.items()}
    t1, gm, wm = (np.rint(volume).astype(np.uint8) for volume in halved(volumes).values())
    # The first fine voxel is the centre of the first coarse one: the origin stays.
    coarse = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    np.savez_compressed(target, t1=t1, gm=gm, wm=wm, affine=coarse)


def template(nilearn: Path | None, name: str) -> nibabel.Nifti1Image:
    """One map of the template at 1 mm."""
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(packed(nilearn, SOURCE.format(name))))


def packed(nilearn: Path | None, file: str) -> bytes:
    """The bytes of one data file of nilearn."""
    source = installed() if nilearn is None else nilearn
    if source.is_dir():
        return (source / file).read_bytes()
    with zipfile.ZipFile(source) as wheel:
        return wheel.read(f"nilearn/datasets/data/{file}")


def installed() -> Path:
    """The data folder of the installed nilearn, found without the cost of importing it."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise SystemExit("nilearn was not found; pip install nilearn==0.14.1, or pass --nilearn")
    return Path(spec.origin).parent / "datasets" / "data"


def common_affine(images: dict[str, nibabel.Nifti1Image]) -> NDArray[np.float64]:
    """The affine that all maps share; refuses maps that differ or are not RAS at 1 mm."""
    affines = [np.asarray(image.affine, dtype=np.float64) for image in images.values()]
    if any(not np.array_equal(affine, affines[0]) for affine in affines):
        raise ValueError("the maps lie on different grids; take them from one nilearn release")
    if not np.array_equal(affines[0][:3, :3], np.eye(3)):
        raise ValueError(f"a 1 mm RAS grid was wanted, got {affines[0]}; use nilearn 0.14.1")
    return affines[0]


def halved(volumes: dict[str, Volume]) -> dict[str, Volume]:
    """The maps at 2 mm; T1 is a mean over brain alone, so that its rim does not darken."""
    brain = (volumes["t1"] > 0).astype(np.float64)
    share = cell_means(brain)
    t1 = np.where(share >= 0.5, cell_means(volumes["t1"]) / np.maximum(share, 0.5), 0.0)
    return {"t1": t1, "gm": cell_means(volumes["gm"]), "wm": cell_means(volumes["wm"])}


def cell_means(volume: Volume) -> Volume:
    """Mean over the 2 mm cell centred on every second voxel, along each axis.

    Such a cell covers its own voxel and half of each neighbour: weights 1/4, 1/2, 1/4. Cells that
    start at the volume's corner would shift the grid by half a millimetre and, over an odd number
    of voxels, break the template's left-right symmetry.
    """
    for axis in range(volume.ndim):
        if volume.shape[axis] % 2 == 0:
            raise ValueError(f"an odd number of voxels was wanted along axis {axis}")
        fine = np.moveaxis(
            np.pad(volume, [(1, 1) if a == axis else (0, 0) for a in range(3)]), axis, 0
        )
        coarse = 0.25 * fine[:-2:2] + 0.5 * fine[1:-1:2] + 0.25 * fine[2::2]
        volume = np.moveaxis(coarse, 0, axis)
    return np.ascontiguousarray(volume)


def main() -> None:
    parser = argparse.ArgumentParser(description="Vendor the ICBM152 template at 2 mm.")
    parser.add_argument("--nilearn", type=Path, default=None, help="wheel or datasets/data folder")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    vendor(arguments.nilearn, arguments.target)


if __name__ == "__main__":
    main()
