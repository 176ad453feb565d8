"""Time and memory against depth: does twice the depth cost twice the time, and how many bytes?

Run from the project's root: .venv/bin/python benchmarks/depth.py [--out FOLDER]
Each round times every depth in turn, forward and backward, so that drift of the machine hits all
depths alike; medians over the rounds and their spread are printed, with the ratio of each depth to
the one before, and the bytes saved for backward (parameters excluded).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

import keelnet as kn
from keelnet.analysis.memory import saved_bytes

DEPTHS = (100, 200, 400, 800, 1600)
STRATEGIES = (kn.store_all, kn.checkpointed, kn.reversible)


def dense(depth: int, strategy: Callable) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """One-kernel Verlet, width 64, batch 256."""
    generator = torch.Generator().manual_seed(0)
    field = kn.HamiltonianField(kn.DenseKernel(64))
    weight = (torch.randn(depth, 64, 64, generator=generator) / 8).requires_grad_()
    y0 = torch.randn(256, 64, generator=generator)
    return lambda: kn.propagate(kn.Verlet(), field, y0, {"weight": weight}, 0.1, strategy), weight


def convolution(depth: int, strategy: Callable) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """One-kernel Verlet, 8 channels each, 32 × 32 points, batch 4."""
    generator = torch.Generator().manual_seed(0)
    field = kn.HamiltonianField(kn.ConvKernel(8, dim=2))
    weight = (torch.randn(depth, 8, 8, 3, 3, generator=generator) / 20).requires_grad_()
    y0 = torch.randn(4, 16, 32, 32, generator=generator)
    return lambda: kn.propagate(kn.Verlet(), field, y0, {"weight": weight}, 0.1, strategy), weight


def seconds(run: Callable[[], torch.Tensor], weight: torch.Tensor) -> float:
    """One forward and backward pass."""
    weight.grad = None
    begin = time.perf_counter()
    run().square().sum().backward()
    return time.perf_counter() - begin


def measured(make: Callable, strategy: Callable, rounds: int) -> list[dict[str, float]]:
    """A row a depth."""
    cases = {depth: make(depth, strategy) for depth in DEPTHS}
    times: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for _ in range(rounds + 1):
        for depth, case in cases.items():
            times[depth].append(seconds(*case))
    rows = []
    for depth, (run, weight) in cases.items():
        counted = times[depth][1:]  # the first round warms up
        rows.append(
            {
                "depth": depth,
                "median_ms": 1e3 * statistics.median(counted),
                "least_ms": 1e3 * min(counted),
                "most_ms": 1e3 * max(counted),
                "saved_mb": saved_bytes(run, excluded=[weight]) / 1e6,
            }
        )
    for before, row in pairwise(rows):
        row["ratio"] = row["median_ms"] / before["median_ms"]
    return rows


def main() -> None:
    """Print a Markdown table a case and strategy; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results = {}
    for make in (dense, convolution):
        for strategy in STRATEGIES:
            rows = measured(make, strategy, arguments.rounds)
            results[f"{make.__name__} {strategy.__name__}"] = rows
            print(
                f"\n{make.__doc__} {strategy.__name__}, float32, {torch.get_num_threads()} threads\n"
            )
            print("| depth | median ms | least – most | ratio | saved MB |\n|---|---|---|---|---|")
            for row in rows:
                ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
                spread = f"{row['least_ms']:.0f} – {row['most_ms']:.0f}"
                print(
                    f"| {row['depth']} | {row['median_ms']:.0f} | {spread} | {ratio} | {row['saved_mb']:.2f} |"
                )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "depth.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
