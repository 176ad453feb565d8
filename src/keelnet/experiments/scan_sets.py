"""Sets of scans made ready for training: a user's folder, or synthetic cases made on first use."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keelnet.data.case import Case
from keelnet.data.cases import Found, find_cases
from keelnet.data.conventions import convention_named
from keelnet.data.prepared import Prepared
from keelnet.data.scans import ScanWarning, read_scan, settle
from keelnet.data.synthetic import Synthesis, case_name, write_cases
from keelnet.data.volumes import read_geometry
from keelnet.experiments.cache import cache_folder
from keelnet.experiments.crews import Work, crew
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.tasks import Report

SYNTHETIC = "brats2023"  # the layout of synthetic sets
# Bytes that work takes, as measured: a voxel of a scan (four modalities twice in float32, and what normalising one
# adds), a voxel of a synthetic case, and whatever the case.
PREPARING, MAKING, LOADED = 44, 150, 50_000_000
HEAD = 9_000_000  # mm³ of a synthetic case
PIECE, FEW, MANY = 1 << 14, 4, 64  # bytes of a file that are looked at, in so many places
EDITION = 3  # of the generator; a set of another edition is made anew


@dataclass(frozen=True)
class ScanSet:
    """Prepared cases of one folder: names to train on, names withheld, and those refused with the reason.

    All scans of a patient are trained on or all are withheld, where a table or names tell. Of each case to train on,
    files: its first, and patients: whose it is. labels: the name of their convention.
    """

    folder: Path
    prepared: Prepared
    training: tuple[str, ...]
    withheld: tuple[str, ...]
    refused: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    labels: str | None = None


Scans = Callable[[Recipe, Report], ScanSet]  # how those of a recipe are come by


def scan_set(recipe: Recipe, report: Report) -> ScanSet:
    """The scans of a recipe, read, checked, prepared and split by its seed.

    What is prepared lies in the cache and is used again while the files stay as they are. Raises ValueError where
    a case is refused (unless recipe.skip_bad) and where cases with labels of fewer than two patients are left.
    """
    folder = Path(recipe.folder) if recipe.folder else synthetic_set(recipe, report)
    convention = convention_named(recipe.labels) if recipe.labels else None
    found = settle(find_cases([folder]), convention)
    for line in str(found).splitlines():
        report(line)
    cases = [case for case in found.cases if case.labels is not None]
    if unlabelled := len(found.cases) - len(cases):
        report(f"{unlabelled} cases without labels are left out")
    _stop_at_refused(found.refused, recipe.skip_bad)
    prepared = Prepared(_place(folder, recipe.spacing, found.labels))
    _prepare(cases, found, prepared, recipe, report)
    whose = {case.name: case.whose for case in cases if case.name not in found.refused}
    training, withheld = _split(folder, whose, recipe)
    files = {case.name: os.path.realpath(case.first) for case in cases if case.name in training}
    patients = {name: whose[name] for name in training}
    return ScanSet(
        folder, prepared, training, withheld, found.refused, files, patients, found.labels
    )


def _split(
    folder: Path, whose: Mapping[str, str], recipe: Recipe
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cases to train on and those withheld, a share of the patients drawn by the recipe's seed."""
    patients: dict[str, list[str]] = {}
    for name in sorted(whose):
        patients.setdefault(whose[name], []).append(name)
    if len(patients) < 2:
        all_of = " of one patient" if len(whose) > 1 else ""
        raise ValueError(
            f"{folder} has {len(whose)} usable cases with labels{all_of}; at least two patients are wanted, one to"
            " train on and one withheld"
        )
    groups = list(patients.values())
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(groups))
    kept = min(len(groups) - 1, max(1, round(recipe.withheld * len(groups))))
    training = sorted(name for place in order[kept:] for name in groups[place])
    withheld = [name for place in order[:kept] for name in groups[place]]
    return tuple(training), tuple(withheld)


def _stop_at_refused(refused: dict[str, str], skip_bad: bool) -> None:
    if refused and not skip_bad:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:3])
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise ValueError(f"cases refused: {shown}{more}; --skip-bad trains without them")


def _place(folder: Path, spacing: float | None, labels: str | None) -> Path:
    """Where cases of this folder are kept: another folder, spacing or convention of labels has a place of its own."""
    key = hashlib.sha256(f"{folder.resolve()}\n{spacing}\n{labels}".encode()).hexdigest()[:16]
    return cache_folder() / "prepared" / key


def _signature(case: Case, labels: str | None) -> str:
    """Changes when a file of the case does, or another one takes its place, as where two folders are exchanged."""
    stats = []
    for path in case.paths:
        stat = path.stat()
        # Numbers of inodes are not lasting on every mount. Of labels most is 0, and little tells two of them apart.
        pieces = _pieces(path, stat.st_size, MANY if path == case.labels else FEW)
        stats.append((os.path.realpath(path), stat.st_size, stat.st_mtime_ns, pieces))
    return hashlib.sha256(repr((stats, case.order, labels)).encode()).hexdigest()


def _pieces(path: Path, size: int, count: int) -> list[bytes]:
    """Of a file, at the middles of this many parts of it."""
    found = []
    with path.open("rb") as file:
        for part in range(count):
            file.seek((2 * part + 1) * size // (2 * count))
            found.append(file.read(PIECE))
    return found


def _prepare(
    cases: Sequence[Case], found: Found, prepared: Prepared, recipe: Recipe, report: Report
) -> None:
    signatures = {}
    for case in cases:
        try:
            signatures[case.name] = _signature(case, found.labels)
        except OSError as error:
            found.refused[case.name] = (
                f"{error.filename or case.first} cannot be read ({error.strerror})"
            )
    _stop_at_refused(found.refused, recipe.skip_bad)
    missing = [
        case
        for case in cases
        if case.name in signatures and not prepared.has(case.name, signatures[case.name])
    ]
    if missing:
        report(f"preparing {len(missing)} cases in {prepared.folder}")
    with crew(len(missing), lambda: _preparing(missing)) as pool:
        waiting = {
            pool.submit(
                _prepare_one, case, found.labels, prepared, recipe.spacing, signatures[case.name]
            ): case.name
            for case in missing
        }
        for number, done in enumerate(as_completed(waiting), 1):
            try:
                for line in done.result():
                    report(line)
            except ValueError as error:
                found.refused[waiting[done]] = str(error)
                _stop_at_refused(found.refused, recipe.skip_bad)
            if number % 10 == 0 and number < len(missing):
                report(f"{number} of {len(missing)} prepared")
    for name, reason in found.refused.items():
        report(f"left out {name}: {reason}")


def _preparing(cases: Sequence[Case]) -> Work:
    """What the largest of these takes."""
    shapes = {}
    for case in cases:
        with suppress(ValueError):  # it will be refused when it is read
            shapes[case.name] = read_geometry(case.first)[0].shape
    name = max(shapes, key=lambda each: math.prod(shapes[each]), default="")
    shape = shapes.get(name, (0, 0, 0))
    described = f"preparing {name} ({' × '.join(map(str, shape))} voxels)"
    return Work(described, LOADED + PREPARING * math.prod(shape))


def _prepare_one(
    case: Case,
    convention: str | None,
    prepared: Prepared,
    spacing: float | None,
    signature: str,
) -> list[str]:
    """What was warned of."""
    labels = convention_named(convention) if convention else None
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", ScanWarning)
        prepared.add(read_scan(case, labels), spacing, signature)
    return [str(each.message) for each in heard if issubclass(each.category, ScanWarning)]


def synthetic_set(recipe: Recipe, report: Report) -> Path:
    """The folder of the recipe's synthetic cases, of which those not there yet are made."""
    name = f"{SYNTHETIC}-{recipe.resolution}mm-{EDITION}"
    folder = cache_folder() / "synthetic" / name / f"{recipe.cases}-cases"
    synthesis = Synthesis(0, recipe.resolution)
    if recipe.cases < 2:
        raise ValueError(f"cases must be at least 2, got {recipe.cases}")
    missing = [number for number in range(recipe.cases) if not _made(folder, number)]
    if missing:
        report(f"making {len(missing)} synthetic cases at {recipe.resolution} mm in {folder}")
    with crew(len(missing), lambda: _making(recipe.resolution)) as pool:
        waiting = [pool.submit(_make, synthesis, folder, number) for number in missing]
        for count, done in enumerate(as_completed(waiting), 1):
            done.result()
            if count % 10 == 0 and count < len(missing):
                report(f"{count} of {len(missing)} made")
    return folder


def _making(resolution: float) -> Work:
    cells = math.ceil(HEAD / resolution**3)
    return Work(f"making synthetic cases at {resolution} mm", LOADED + MAKING * cells)


def _made(folder: Path, number: int) -> bool:
    return (folder / case_name(SYNTHETIC, number)).is_dir()


def _make(synthesis: Synthesis, folder: Path, number: int) -> None:
    """One case, in place only when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        for name, _ in write_cases(synthesis, staging, 1, SYNTHETIC, first=number):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(staging / name, folder / name)
            except OSError:
                if not _made(
                    folder, number
                ):  # otherwise another process was faster: the cases are the same
                    raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
