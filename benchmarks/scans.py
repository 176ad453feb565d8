"""Scans: seconds to make a synthetic case, and seconds and memory to label one of 240 × 240 × 155 voxels.

python benchmarks/scans.py
python benchmarks/scans.py --resolution 4 --cases 1 --rounds 1 --space 160 190 160    # to see that it works

Each row in fresh processes: cases on one thread after one that is not counted; labels, as `keelnet segment` gives them
with the network of the recipe tumour before training, on two threads, a process a round after one that compiles. Their
seconds are of reading, labelling and writing with the picture, without the start of Python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from processes import environment, two_cores

from keelnet.data.conventions import MODALITIES
from keelnet.data.prepared import brain_box
from keelnet.data.resampling import resampled
from keelnet.data.synthetic import Synthesis
from keelnet.experiments.problems import network_of
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.resident import status_of
from keelnet.experiments.segment import segment
from keelnet.experiments.segmenting import Segmenting
from keelnet.experiments.spaces import tiling_of

SPACE = (240, 240, 155)  # of BraTS, at 1 mm


def made(resolution: int, cases: int) -> dict[str, object]:
    """Seconds of each of so many cases, and the peak of the process."""
    synthesis = Synthesis(resolution=resolution)
    synthesis.case(0)
    seconds = []
    for number in range(1, cases + 1):
        begin = time.perf_counter()
        synthesis.case(number)
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds, "peak": status_of("VmHWM")}


def labelled(scans: Path) -> dict[str, object]:
    """Seconds of the case in this folder, and the peak of the process."""
    recipe = recipe_named("tumour")
    segmenting = Segmenting(network_of(recipe), recipe.spacing, tiling=tiling_of(recipe))
    with tempfile.TemporaryDirectory() as out:
        begin = time.perf_counter()
        list(segment(segmenting, [scans], Path(out) / "labels"))
        return {"seconds": [time.perf_counter() - begin], "peak": status_of("VmHWM")}


def write_scan(folder: Path, resolution: int, space: Sequence[int]) -> None:
    """A synthetic case on voxels of 1 mm as BraTS 2021 lays one out, its brain in the middle of ``space``."""
    x = Synthesis(resolution=resolution).case(0).x
    fine = resampled(x[(slice(None), *brain_box(x))], (resolution,) * 3, 1.0)
    folder.mkdir()
    for name, values in zip(MODALITIES, centred(fine, space), strict=True):
        image = nibabel.Nifti1Image(np.rint(values).astype(np.int16), np.eye(4))
        nibabel.save(image, folder / f"BraTS2021_00000_{name}.nii.gz")


def centred(x: NDArray[np.float32], space: Sequence[int]) -> NDArray[np.float32]:
    """x (channels, *space) in another space: cut where it is too large, 0 around it where it is not."""
    result = np.zeros((len(x), *space), np.float32)
    source, target = [], []
    for old, new in zip(x.shape[1:], space, strict=True):
        side, start, place = min(old, new), max(0, old - new) // 2, max(0, new - old) // 2
        source.append(slice(start, start + side))
        target.append(slice(place, place + side))
    result[(slice(None), *target)] = x[(slice(None), *source)]
    return result


def ask(measure: str, threads: int, *options: object) -> dict:
    """What a fresh process measures on so many cores."""
    cores = sorted(two_cores())[:threads]
    place = environment(Path(".bench"))
    place |= {name: str(threads) for name in place if name.endswith("_NUM_THREADS")}
    command = [sys.executable, __file__, "--measure", measure, *map(str, options)]
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *command],
        capture_output=True,
        text=True,
        env=place,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=2, choices=(1, 2, 4), help="mm of a case")
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--space", type=int, nargs=3, default=SPACE, help="voxels of 1 mm")
    parser.add_argument("--measure", choices=("made", "labelled"))
    parser.add_argument("--scans", type=Path)
    options = parser.parse_args()
    if options.measure == "made":
        print(json.dumps(made(options.resolution, options.cases)))
        return
    if options.measure == "labelled":
        print(json.dumps(labelled(options.scans)))
        return
    made_ = ask("made", 1, "--resolution", options.resolution, "--cases", options.cases)
    with tempfile.TemporaryDirectory() as scratch:
        scans = Path(scratch) / "BraTS2021_00000"
        write_scan(scans, options.resolution, options.space)
        _, *rounds = [ask("labelled", 2, "--scans", scans) for _ in range(options.rounds + 1)]
    seconds = [round_["seconds"][0] for round_ in rounds]
    space = " × ".join(map(str, options.space))
    print("| | s (least, most) | peak MB |\n|---|---|---|")
    for what, found, peak in (
        (f"a case made at {options.resolution} mm, one thread", made_["seconds"], made_["peak"]),
        (f"a case of {space} labelled, two threads", seconds, max(one["peak"] for one in rounds)),
    ):
        middle = f"{statistics.median(found):.2f} ({min(found):.2f}, {max(found):.2f})"
        print(f"| {what} | {middle} | {peak / 1e6:.0f} |")


if __name__ == "__main__":
    main()
