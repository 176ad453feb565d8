"""What each strategy keeps for the backward pass, against depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure

from keelnet.analysis.memory import saved_bytes
from keelnet.analysis.palette import BLUE, ORANGE, VERMILION
from keelnet.dynamics import ConvKernel, HamiltonianField
from keelnet.experiments.pictures import png
from keelnet.propagation import Verlet, checkpointed, propagate, reversible, store_all

STRATEGIES = (store_all, checkpointed, reversible)
DEPTHS = (8, 32, 128)


@dataclass(frozen=True)
class Kept:
    """Bytes saved for backward by one strategy at one depth, parameters excluded."""

    strategy: str
    depth: int
    bytes: int


def strategy_memory(
    depths: Sequence[int] = DEPTHS, channels: int = 16, side: int = 32, batch: int = 4
) -> list[Kept]:
    """Measured on a 2-D convolutional Verlet block, float32: y and z of ``channels`` channels each."""
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(batch, 2 * channels, side, side, generator=generator)
    field = HamiltonianField(ConvKernel(channels, dim=2))
    rows = []
    for depth in depths:
        weight = 0.05 * torch.randn(depth, channels, channels, 3, 3, generator=generator)
        weight.requires_grad_()
        for strategy in STRATEGIES:

            def run(weight: torch.Tensor = weight, strategy=strategy) -> object:  # type: ignore[no-untyped-def]
                return propagate(
                    Verlet(), field, y0, {"weight": weight}, step_size=0.1, strategy=strategy
                )

            rows.append(Kept(strategy.__name__, depth, saved_bytes(run, excluded=[weight])))
    return rows


def memory_picture(rows: Sequence[Kept]) -> bytes:
    """Saved megabytes against depth, both logarithmic, a line a strategy."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    looks = zip(STRATEGIES, (VERMILION, ORANGE, BLUE), "sDo", ("--", "-.", "-"), strict=True)
    for strategy, colour, marker, style in looks:
        own = [row for row in rows if row.strategy == strategy.__name__]
        axes.plot(
            [row.depth for row in own],
            [row.bytes / 1e6 for row in own],
            color=colour,
            marker=marker,
            linestyle=style,
            linewidth=2,
            label=strategy.__name__,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    depths = sorted({row.depth for row in rows})
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.set_xlabel("depth (layers)")
    axes.set_ylabel("saved for backward (MB)")
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)
