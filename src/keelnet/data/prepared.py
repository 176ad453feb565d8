"""Prepared volumes: scans cropped to the brain and normalised, in files that processes read together."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from keelnet.data.resampling import resampled, resampled_classes
from keelnet.data.scans import Scan

PLACES = 2000
FILES = 2  # that a mapped case keeps open: its image and its classes
SPARE = 256  # open files that all else may need
VERSION = 4  # of what is written; another one is prepared anew


def brain_box(x: NDArray[np.float32], margin: int = 2) -> tuple[slice, slice, slice]:
    """The smallest box around what is not 0 in any modality, and a margin."""
    inside = (x != 0).any(0)
    cuts = []
    for axis in range(3):
        marked = np.flatnonzero(inside.any(tuple(other for other in range(3) if other != axis)))
        start, stop = max(0, int(marked[0]) - margin), int(marked[-1]) + 1 + margin
        cuts.append(slice(start, min(stop, inside.shape[axis])))
    return cuts[0], cuts[1], cuts[2]


def normalised(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each modality with mean 0 and deviation 1 over its brain, where it is not 0; outside stays 0.

    Values beyond 5 deviations are held there: a bright vessel must not set the scale.
    """
    result = np.zeros_like(x)
    for values, target in zip(x, result, strict=True):
        brain = values != 0
        inside = values[brain].astype(np.float64)
        low, high = np.percentile(inside, (0.5, 99.5))
        held = np.clip(inside, low, high)
        spread = max(float(held.std()), 1e-6 * max(1.0, abs(float(held.mean()))))
        target[brain] = np.clip((inside - held.mean()) / spread, -5, 5)
    return result


def ready(
    scan: Scan, spacing: float | None = None
) -> tuple[NDArray[np.float32], tuple[slice, slice, slice]]:
    """What a network is shown of a scan, on voxels of ``spacing`` mm, and where it lies in the scan."""
    box = brain_box(scan.x)
    x = normalised(scan.x[(slice(None), *box)])
    return (x if spacing is None else resampled(x, scan.geometry.spacing, spacing)), box


def _sides(
    old: tuple[int, ...], sides: tuple[float, float, float], new: tuple[int, ...]
) -> tuple[float, float, float]:
    """What a voxel measures where as much space is cut into another number of them."""
    found = [side * a / b for side, a, b in zip(sides, old, new, strict=True)]
    return found[0], found[1], found[2]


def _places(classes: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Voxels of each class, all of them or as many as are kept, drawn from all: equal steps would keep to some planes."""
    found = [np.zeros((0, 4), np.int16)]
    for label in range(1, int(classes.max()) + 1):
        at = np.argwhere(classes == label)
        if len(at) > PLACES:
            at = at[np.sort(np.random.default_rng(label).choice(len(at), PLACES, replace=False))]
        found.append(np.column_stack([at, np.full(len(at), label)]).astype(np.int16))
    return np.concatenate(found)


def content_of(scan: Scan) -> str:
    """A name for what is prepared of a scan: that of its voxels, classes and their size, whatever files hold them.

    It is taken before anything is computed of them, which another processor may round otherwise.
    """
    assert scan.classes is not None
    sides = [f"{side:.4f}" for side in scan.geometry.spacing]
    found = hashlib.sha256(repr((VERSION, scan.x.shape, sides)).encode())
    for values in (scan.x, scan.classes):
        found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Volume:
    """A prepared case: x (4, right, anterior, superior) float16 and classes uint8, both mapped from files.

    places (k, 4): voxels of each class, up to `PLACES`, and the class. content: `content_of` its scan; empty
    where it is not known.
    """

    name: str
    x: NDArray[np.float16]
    classes: NDArray[np.uint8]
    places: NDArray[np.int16]
    spacing: tuple[float, float, float]
    folder: Path
    content: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to another process, the files are mapped there: no copy travels."""
        return _mapped, (self.folder, self.name)

    @property
    def space(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.classes.shape[0], self.classes.shape[1], self.classes.shape[2]

    def let_go(self) -> None:
        """`let_go` of both files."""
        let_go(self.x)
        let_go(self.classes)


def let_go(values: NDArray[np.generic]) -> None:
    """Leave a mapped file to the system's cache: pages once read no longer count as this process' memory.

    They come back by themselves when they are read again. Without effect on an array that is not mapped, or that may be
    written: what was changed would be lost.
    """
    if values.flags.writeable or not hasattr(mmap, "MADV_DONTNEED"):
        return
    if isinstance(values.base, mmap.mmap):
        values.base.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears when it is whole; of two processes that write it at once, the later one's stays.

    Raises OSError with its name where it cannot be written.
    """
    handle, temporary = tempfile.mkstemp(".new", f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared cases. Files are mapped, not read: workers share one copy in the system's cache."""

    folder: Path

    def add(self, scan: Scan, spacing: float | None = None, signature: str = "") -> None:
        """Prepare a scan that has labels, on voxels of ``spacing`` mm; whole or not at all."""
        assert scan.classes is not None
        x, box = ready(scan, spacing)
        classes, sides = scan.classes[box], scan.geometry.spacing
        if spacing is not None:
            classes = resampled_classes(classes, sides, spacing)
        sides = _sides(scan.classes[box].shape, sides, classes.shape)
        about = {"version": VERSION, "spacing": list(sides), "signature": signature}
        about["content"] = content_of(scan)
        self._withdraw(scan.name, about)
        self._write(f"{scan.name}.x.npy", x.astype(np.float16))
        self._write(f"{scan.name}.classes.npy", classes)
        self._write(f"{scan.name}.places.npy", _places(classes))
        with _whole(
            self.folder / f"{scan.name}.json"
        ) as file:  # last: a case counts once it is there
            file.write(json.dumps(about).encode())

    def _withdraw(self, name: str, about: dict[str, Any]) -> None:
        """What vouches for other files of the case goes before they do: a write may fail between them.

        For the same files it stays: another process may be reading the case.
        """
        path = self.folder / f"{name}.json"
        with suppress(OSError, ValueError):
            if about["signature"] and json.loads(path.read_text(encoding="utf-8")) == about:
                return
        path.unlink(missing_ok=True)

    def _write(self, name: str, values: NDArray[np.generic]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # np.save does not notice a file that takes less than it is given
        np.save(content, np.ascontiguousarray(values))
        with _whole(self.folder / name) as file:
            file.write(content.getbuffer())

    def has(self, name: str, signature: str = "") -> bool:
        """Whether the case is prepared as this version does it, from files of this signature, and whole."""
        try:
            about = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            self.volume(name)
        except (OSError, ValueError, KeyError, EOFError):
            return False
        return bool(about.get("version") == VERSION and about.get("signature") == signature)

    def volume(self, name: str) -> Volume:
        """A prepared case."""
        about = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        x = np.load(self.folder / f"{name}.x.npy", mmap_mode="r")
        classes = np.load(self.folder / f"{name}.classes.npy", mmap_mode="r")
        places = np.load(self.folder / f"{name}.places.npy")
        side = about["spacing"]
        sides = float(side[0]), float(side[1]), float(side[2])
        return Volume(name, x, classes, places, sides, self.folder, about.get("content", ""))

    def volumes(self, names: Sequence[str]) -> list[Volume]:
        """Prepared cases in this order. Raises ValueError where the system does not allow so many files to be open."""
        _allow_files(FILES * len(names))
        return [self.volume(name) for name in names]


def _allow_files(count: int) -> None:
    """That so many more are open than now; the system's limit for a process is often 1024 and may be raised."""
    try:
        import resource
    except ImportError:  # where there is no such limit
        return
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0
    wanted = there + count + SPARE
    if least == resource.RLIM_INFINITY or wanted <= least:
        return
    if most != resource.RLIM_INFINITY and there + count > most:
        raise ValueError(
            f"{count // FILES} cases need {there + count} open files, and the system allows {most}; raise its limit"
            " (ulimit -Hn), or train on fewer"
        )
    raised = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    with suppress(ValueError, OSError):  # where it allows fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, most))


def _mapped(folder: Path, name: str) -> Volume:
    return Prepared(folder).volume(name)
