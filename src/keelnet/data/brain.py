"""The brain: co-registered tissue maps of one head, and the ICBM152 average that ships with us."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BrainMaps:
    """A skull-stripped T1 volume and its tissue probabilities, on one grid.

    ``t1``, ``gm``, ``wm`` and ``csf`` are float32 of shape (right, anterior, superior), in [0, 1];
    the three probabilities sum to 1 inside ``mask`` (bool) and are 0 outside, as is ``t1``.
    ``affine`` (4, 4) takes voxel indices to millimetres; its voxels are cubes.

    Raises ValueError for maps of different shapes, outside [0, 1], or on a grid whose voxels are
    not cubes.
    """

    t1: Map
    gm: Map
    wm: Map
    csf: Map
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]

    class_names: ClassVar[tuple[str, ...]] = ("background", "CSF", "GM", "WM")

    def __post_init__(self) -> None:
        for name, values in self._maps().items():
            _check_map(name, values, self.mask)
        sides = _sides(self.affine)
        if not np.allclose(sides, sides[0]):
            raise ValueError(f"cubic voxels were wanted, got {sides} mm; resample the maps first")

    @property
    def voxel_size(self) -> float:
        """Side of a voxel in mm."""
        return float(_sides(self.affine)[0])

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The likeliest class of every voxel: 0 background, 1 CSF, 2 GM, 3 WM."""
        likeliest = np.argmax(np.stack([self.csf, self.gm, self.wm]), axis=0) + 1
        return np.where(self.mask, likeliest, 0).astype(np.uint8)

    def _maps(self) -> dict[str, Map]:
        return {"t1": self.t1, "gm": self.gm, "wm": self.wm, "csf": self.csf}


def load_icbm152(resolution: int = 2) -> BrainMaps:
    """The ICBM152 2009a symmetric average of 152 adults, at 2 mm (99 x 117 x 95).

    resolution 4 halves every axis of it; 1 reads the original from nilearn, which must be installed.
    White matter is about 0.85 in ``t1``. ICBM152-NOTICE.txt, beside the data, holds its copyright
    notice (Louis Collins, McGill University), which must travel with every copy.
    """
    if resolution not in (1, 2, 4):
        raise ValueError(f"resolution must be 1, 2 or 4 mm, got {resolution}")
    if resolution == 1:
        return _original()
    source = resources.files("keelnet.data") / "icbm152_2mm.npz"
    with source.open("rb") as file, np.load(file) as stored:
        t1, gm, wm = (stored[name].astype(np.float32) / 255 for name in ("t1", "gm", "wm"))
        affine = stored["affine"]
    if resolution == 4:
        inside = _halved((t1 > 0).astype(np.float32))
        t1 = np.where(inside >= 0.5, _halved(t1) / np.maximum(inside, 0.5), 0).astype(np.float32)
        gm, wm = _halved(gm), _halved(wm)
        affine = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.25)
    return brain_maps(np.minimum(t1, 1), gm, wm, affine)


def _halved(values: Map) -> Map:
    """Means over cells of 2 x 2 x 2; an odd last plane is left out."""
    even = values[tuple(slice(0, side // 2 * 2) for side in values.shape)]
    shape = [part for side in even.shape for part in (side // 2, 2)]
    means: Map = even.reshape(shape).mean((1, 3, 5), dtype=np.float32)
    return means


def _original() -> BrainMaps:
    """The template at 1 mm, from nilearn's own files."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ValueError("the atlas at 1 mm is nilearn's: pip install nilearn, or use 2 mm")
    import nibabel

    folder = Path(spec.origin).parent / "datasets" / "data"
    images: list[Any] = [
        nibabel.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        for name in ("t1", "gm", "wm")
    ]
    t1, gm, wm = (
        np.asarray(image.dataobj).astype(np.float32) / np.float32(255) for image in images
    )
    return brain_maps(t1, gm, wm, np.asarray(images[0].affine, np.float64))


def brain_maps(t1: Map, gm: Map, wm: Map, affine: NDArray[np.float64]) -> BrainMaps:
    """Maps from what an atlas gives: the brain is where ``t1`` > 0, CSF what GM and WM leave of it.

    All arrays are float32 in [0, 1]. Where GM and WM exceed 1 together they are scaled back to it.
    """
    mask = t1 > 0
    total = np.maximum(gm + wm, 1)
    gm, wm = (np.where(mask, tissue / total, 0).astype(np.float32) for tissue in (gm, wm))
    csf = np.where(mask, np.clip(1 - gm - wm, 0, 1), 0).astype(np.float32)
    return BrainMaps(t1=t1, gm=gm, wm=wm, csf=csf, mask=mask, affine=affine)


def _check_map(name: str, values: Map, mask: NDArray[np.bool_]) -> None:
    if values.ndim != 3 or values.shape != mask.shape:
        raise ValueError(
            f"{name} must be a volume on the mask's grid {mask.shape}, got {values.shape}; "
            "resample it onto that grid"
        )
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"{name} must lie in [0, 1], got [{values.min()}, {values.max()}]; rescale it"
        )


def _sides(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    sides: NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    return sides
