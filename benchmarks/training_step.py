"""One training step of segmentation: seconds in turn, bytes saved for backward, peak resident growth.

python benchmarks/training_step.py                 # 2 × 4 × 96³, ours at depths 2, 8, 32 beside MONAI's networks
python benchmarks/training_step.py --side 64 --only ours-2,segresnet-8

Memory is taken in a fresh process for each network; seconds in turn within one process, two threads. The floor
of ours is its convolutions alone: eight a reversible step, and the opening's.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cases import BACKWARD, Case
from contenders import floors
from processes import environment, two_cores
from torch import Tensor, nn

from keelnet.analysis.memory import saved_bytes
from keelnet.experiments.resident import peak_since, status_of
from keelnet.learning.regions import region_loss
from keelnet.networks import architectures

WIDTHS, FOLDS = (32, 64, 128), 1  # as in the recipe tumour
SMALL = 32  # side of a first step, which leaves little behind
ALL = ("ours-2", "ours-8", "ours-32", "segresnet-8", "segresnet-16", "unet")
KNOWN = r"(ours|segresnet)-[1-9]\d*|unet"


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    kind, _, number = name.partition("-")
    if kind == "ours":
        return architectures.segmenter(
            4, 3, dim=3, width=WIDTHS, depth=int(number), final_time=2.0, folds=FOLDS
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import SegResNet, UNet
    if kind == "segresnet":
        return SegResNet(spatial_dims=3, init_filters=int(number), in_channels=4, out_channels=3)
    return UNet(3, 4, 3, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)


def inputs(name: str, side: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Channels last, which is the faster layout for every one of them on a processor."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 4, side, side, side, generator=random)
    classes = torch.randint(0, 4, (batch, side, side, side), generator=random)
    return x.contiguous(memory_format=torch.channels_last_3d), classes


def step_of(name: str) -> Callable[[Tensor, Tensor], None]:
    made = network(name)
    if not name.startswith("ours"):
        made = made.to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-4)

    def step(x: Tensor, classes: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        region_loss(made(x), classes).backward()
        nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimiser.step()

    return step


def memory(name: str, side: int) -> dict[str, float]:
    """Peak growth over a step above what stands before it (network, optimiser, batch, libraries), and saved bytes."""
    step = step_of(name)
    step(*inputs(name, SMALL))  # loads code and makes the optimiser's moments
    x, classes = inputs(name, side)
    gc.collect()
    before = status_of("VmRSS")
    peak_since()
    step(x, classes)
    peak = peak_since() - before
    del step
    made = network(name)
    return {"peak": peak, "saved": saved_bytes(lambda: made(x), [*made.parameters(), x])}


def floor(depth: int, side: int, batch: int = 2) -> float:
    """Seconds of the convolutions that a reversible step of ours cannot do without."""
    total = 0.0
    for level, width in enumerate(WIDTHS):
        counts = {"apply": 3 * depth, "adjoint": 3 * depth, "weight": 2 * depth}
        total += convolutions(width // 2, width // 2, side >> (level + FOLDS), batch, counts)
    opening = {"apply": 1, "weight": 1}
    return total + convolutions(4 * 8**FOLDS, WIDTHS[0], side >> FOLDS, batch, opening)


def convolutions(
    inputs_: int, outputs: int, side: int, batch: int, counts: dict[str, int]
) -> float:
    case = Case("conv", "verlet", inputs_, outputs, batch, 1, 0.1, 3, side)
    numbers = {"weight": np.random.default_rng(0).standard_normal(case.weight_shape).astype("f4")}
    total = 0.0
    for kind, count in counts.items():
        best = np.inf
        for library in floors.CONVOLUTION:
            try:
                one = floors.prepare(case, numbers, f"{kind} {library}", BACKWARD)
            except Exception:  # a library that has no such call
                continue
            one.run()
            seconds = []
            for _ in range(3):
                begin = time.perf_counter()
                one.run()
                seconds.append(time.perf_counter() - begin)
            best = min(best, statistics.median(seconds))
        total += count * best
    return total


def timed(names: list[str], side: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each network's step, one after the other, round by round."""
    steps = {name: step_of(name) for name in names}
    batches = {name: inputs(name, side) for name in names}
    for name, step in steps.items():
        step(*batches[name])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            step(*batches[name])
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ALL))
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=("memory", "time"))
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if not re.fullmatch(KNOWN, name)]:
        parser.error(f"--only takes ours-N, segresnet-N and unet, got {', '.join(unknown)}")
    if options.measure == "memory":
        print(json.dumps(memory(names[0], options.side)))
        return
    if options.measure == "time":
        found = timed(names, options.side, options.rounds)
        least = {
            name: floor(int(name.split("-")[1]), options.side)
            for name in names
            if name.startswith("ours")
        }
        print(json.dumps({"seconds": found, "floor": least}))
        return
    weights = {name: ask("memory", name, options) for name in names}
    times = ask("time", options.only, options)
    print(f"2 × 4 × {options.side}³, one training step, two threads, float32\n")
    print("| network | parameters | saved MB | peak growth MB | s a step (least, most) | floor |")
    print("|---|---|---|---|---|---|")
    for name in names:
        seconds = times["seconds"][name]
        share = times["floor"].get(name)
        middle = statistics.median(seconds)
        reached = "" if share is None else f"{share:.2f} s, {share / middle:.0%} of its rate"
        count = sum(value.numel() for value in network(name).parameters())
        print(
            f"| {name} | {count:,} | {weights[name]['saved'] / 1e6:.1f} | {weights[name]['peak'] / 1e6:.0f} |"
            f" {middle:.2f} ({min(seconds):.2f}, {max(seconds):.2f}) | {reached} |"
        )


def ask(measure: str, names: str, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--measure", measure, "--only", names]
    command += ["--side", str(options.side), "--rounds", str(options.rounds)]
    cores = ",".join(map(str, sorted(two_cores())))
    done = subprocess.run(
        ["taskset", "-c", cores, *command],
        capture_output=True,
        text=True,
        env=environment(Path(".bench")),
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
