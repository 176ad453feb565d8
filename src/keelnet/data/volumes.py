"""Volumes: NIfTI files read to right-anterior-superior order, and written back as they came."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

nib: Any = nibabel  # its own types say less than it does

SUFFIXES = (".nii.gz", ".nii")
SIDES = (0.01, 100.0)  # mm of a voxel; a header in metres or without a scale lies outside
PIECE = 1 << 22  # bytes that are unpacked at a time
# Of each axis, where it goes and whether it is turned (-1) or not (1): an orientation of nibabel, (3, 2).
Turn = NDArray[np.float64]


def is_volume(path: Path) -> bool:
    """Whether the name is that of a NIfTI file (and not of one that the system hides)."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem_of(path: Path) -> str:
    """The name without .nii or .nii.gz, in whatever case."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


@dataclass(frozen=True, eq=False)
class Geometry:
    """How a file's voxels lie in space: shape (3), affine (4, 4), header.

    ``towards`` and ``back`` only exchange and turn axes; nothing is resampled, so an oblique grid
    stays oblique.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    header: Any  # of nibabel

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Sides of a voxel in mm, along right, anterior, superior."""
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)
        order = np.argsort(self._orientation[:, 0])
        return float(sides[order[0]]), float(sides[order[1]]), float(sides[order[2]])

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def _orientation(self) -> NDArray[np.float64]:
        orientation: NDArray[np.float64] = nib.orientations.io_orientation(self.affine)
        return orientation

    @property
    def code(self) -> str:
        """The directions in which the file's axes grow, such as LPS."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    def towards(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """From the file's order of axes to (right, anterior, superior)."""
        turned: NDArray[np.generic] = nib.orientations.apply_orientation(values, self._orientation)
        return np.ascontiguousarray(turned)

    def back(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """From (right, anterior, superior) to the file's order of axes."""
        target = nib.orientations.axcodes2ornt(("R", "A", "S"))
        way = nib.orientations.ornt_transform(target, self._orientation)
        turned: NDArray[np.generic] = nib.orientations.apply_orientation(values, way)
        return np.ascontiguousarray(turned)

    def turn_onto(self, other: Geometry) -> Turn:
        """How the axes of this file are exchanged and turned to lie along those of another one.

        It is looked for in the other's voxels, not in space: where a grid lies at 45° to right and anterior, rounding
        decides which of its axes each file calls so.
        """
        turn: Turn = nib.orientations.io_orientation(np.linalg.inv(other.affine) @ self.affine)
        return turn

    def turned(self, turn: Turn) -> Geometry:
        """That of the same voxels with their axes exchanged and turned."""
        affine = self.affine @ nib.orientations.inv_ornt_aff(turn, self.shape)
        sides = [self.shape[axis] for axis in np.argsort(turn[:, 0])]
        return Geometry((sides[0], sides[1], sides[2]), affine, self.header)

    def distance(self, other: Geometry) -> float:
        """How far, in mm, the two place the same corner of the volume apart, at most."""
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
        corners[:, :3] *= np.array(self.shape) - 1
        apart = (corners @ (self.affine - other.affine).T)[:, :3]
        return float(np.linalg.norm(apart, axis=1).max())


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What nibabel and gzip raise on broken files, as one sentence; what nibabel mends by itself it does in silence."""
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder, not a file")
    if path.exists() and not os.access(
        path, os.R_OK
    ):  # of which nibabel says no more than of damage
        raise ValueError(f"{path.name} cannot be read (Permission denied)")
    log, before = nib.imageglobals.logger, nib.imageglobals.logger.disabled
    log.disabled = True
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path.name} does not exist") from None
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,  # a header of impossible numbers
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
        nib.wrapstruct.WrapStructError,
        OverflowError,
        MemoryError,
    ) as error:
        if isinstance(error, OSError) and error.strerror:
            raise ValueError(f"{path.name} cannot be read ({error.strerror})") from None
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path.name} cannot be read ({said}); it may be truncated or damaged"
        ) from None
    finally:
        log.disabled = before


def read_geometry(path: Path) -> tuple[Geometry, tuple[int, ...]]:
    """The geometry and the full shape, without reading the voxels. Raises ValueError."""
    with _readable(path):
        image = nib.load(path)
    shape = tuple(int(side) for side in image.shape)
    if not isinstance(image, nib.Nifti1Image):
        raise ValueError(f"{path.name} is {type(image).__name__}, not NIfTI; convert it first")
    _require_numbers(path, image.get_data_dtype())
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(
            f"{path.name} has shape {'×'.join(map(str, shape))}; a volume (3-D), or four in one file (4-D), is wanted"
        )
    if 1 in shape[:3]:
        raise ValueError(
            f"{path.name} has shape {'×'.join(map(str, shape))}: a slice, not a volume"
        )
    affine = np.asarray(image.affine, np.float64)
    _require_affine(path, affine)
    return Geometry((shape[0], shape[1], shape[2]), affine, image.header.copy()), shape


def _require_numbers(path: Path, kind: np.dtype[Any]) -> None:
    if kind.fields or kind.kind not in "iuf":
        named = "colours (RGB)" if kind.fields else f"{kind} numbers"
        raise ValueError(
            f"{path.name} holds {named}; one real number a voxel is wanted, as scanners give it"
        )


def _require_affine(path: Path, affine: NDArray[np.float64]) -> None:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or np.abs(np.linalg.det(affine[:3, :3])) < 1e-6 * sides.prod():
        raise ValueError(f"{path.name} has a broken affine; correct its header")
    if sides.min() < SIDES[0] or sides.max() > SIDES[1]:
        shown = "×".join(f"{side:.3g}" for side in sides)
        raise ValueError(
            f"{path.name} has voxels of {shown} mm; sides of {SIDES[0]} to {SIDES[1]} mm are wanted, so correct its"
            " header"
        )


def read_voxels(path: Path) -> NDArray[np.float32]:
    """All voxels, scaled as the header says, in the file's order of axes. Raises ValueError."""
    with _readable(path):
        image = nib.load(path)
    _require_numbers(path, image.get_data_dtype())
    with _readable(path), np.errstate(over="ignore"):  # too large for float32 is infinite
        return _stored(path, image.dataobj)


def _stored(path: Path, stored: Any) -> NDArray[np.float32]:
    """The voxels, if there are as many as the header promises; memory is taken for what is there."""
    wanted = stored.offset + math.prod(stored.shape) * stored.dtype.itemsize
    if not path.name.lower().endswith(".gz"):
        _require_bytes(path.stat().st_size, wanted)
        return _scaled(stored.get_unscaled(), stored.slope, stored.inter)
    content = bytearray()
    with gzip.open(
        path
    ) as file:  # to its end, where the check sum stands: nibabel does not look at it
        while piece := file.read(PIECE):
            content += piece[: max(0, wanted - len(content))]
    _require_bytes(len(content), wanted)
    raw = np.ndarray(stored.shape, stored.dtype, content, stored.offset, order="F")
    return _scaled(raw, stored.slope, stored.inter)


def _scaled(raw: NDArray[Any], slope: float, inter: float) -> NDArray[np.float32]:
    """slope · raw + inter, and exactly 0 where no whole number comes nearer: what is 0 is not brain.

    A header's float32 may be off by some steps of int32.
    """
    values = np.asarray(nib.volumeutils.apply_read_scaling(raw, slope, inter), np.float32)
    if inter and raw.dtype.kind in "iu" and np.isfinite(zero := np.rint(-inter / slope)):
        off = int(np.finfo(np.float32).eps * abs(zero))
        values[(raw >= int(zero) - off) & (raw <= int(zero) + off)] = 0
    return values


def _require_bytes(found: int, wanted: int) -> None:
    if found < wanted:
        raise EOFError(f"{found} bytes where its header promises {wanted}")


def write_labels(path: Path, classes: NDArray[np.uint8], geometry: Geometry) -> None:
    """A uint8 volume (right, anterior, superior) into the file's own space; whole or not at all."""
    _write(path, classes.astype(np.uint8), geometry)


def write_map(path: Path, values: NDArray[np.floating], geometry: Geometry) -> None:
    """A float32 volume (right, anterior, superior) into the file's own space; whole or not at all."""
    _write(path, values.astype(np.float32), geometry)


def _write(path: Path, values: NDArray[np.generic], geometry: Geometry) -> None:
    header = geometry.header.copy()
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    image = nib.Nifti1Image(geometry.back(values), geometry.affine, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if path.name.endswith(".gz") else ".nii"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=suffix)
    os.close(handle)
    try:
        nib.save(image, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
