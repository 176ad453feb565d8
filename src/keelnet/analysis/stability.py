"""Stability: does a network's propagation grow, keep or shrink what enters it, and by how much?"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from keelnet.analysis.derivatives import largest_growth
from keelnet.networks.blocks import Block
from keelnet.propagation import step_bound, store_all
from keelnet.propagation.bounds import largest_amplification

# A layer that grows by less than this is lost in the rounding of float32.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class BlockStability:
    """One block, at the features that reach it.

    name: its dotted name, or its position where it has none. method: what it computes. growth:
    σ_max of its Jacobian, the largest over the samples: how much a perturbation can grow.
    amplification: the largest |R(h λ)| of a layer, frozen in time; step_bound the largest h
    without growth (None for both where no spectrum is known).
    """

    name: str
    method: str
    depth: int
    growth: float
    step_size: float | None = None
    step_bound: float | None = None
    amplification: float | None = None

    @property
    def verdict(self) -> str:
        """unstable, marginal or dissipative by the layers' amplification; else by the growth alone.

        The amplification takes f' at its largest: where activations saturate, the growth that was
        measured stays far below its power.
        """
        if not math.isfinite(self.growth):
            return "unstable: not finite"
        if self.amplification is None:
            return "grows" if self.growth > 1 + 1e-3 else "does not grow"
        if self.amplification > 1 + TOLERANCE:
            return f"unstable: up to ×{self.amplification:.6g} a layer"
        if self.amplification < 1 - TOLERANCE:
            return f"dissipative: up to ×{self.amplification:.6g} a layer"
        return "marginal: neither grows nor decays"


@dataclass(frozen=True)
class StabilityReport:
    """The blocks in the order in which they are met; ``str()`` is a table."""

    blocks: tuple[BlockStability, ...]

    @property
    def stable(self) -> bool:
        """Whether no block was found unstable or growing."""
        return not any(block.verdict.startswith(("unstable", "grows")) for block in self.blocks)

    def __str__(self) -> str:
        table = Table(title="Stability, block by block", title_justify="left")
        for heading, cells in self._columns().items():
            if any(cells):
                numeric = heading in ("layers", "h", "step bound", "growth")
                table.add_column(heading, justify="right" if numeric else "left")
        shown = [cells for cells in self._columns().values() if any(cells)]
        for row in zip(*shown, strict=True):
            table.add_row(*map(escape, row))
        console = Console(file=io.StringIO(), width=120)
        console.print(table)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def _columns(self) -> dict[str, list[str]]:
        """Cells by heading; a column of empty ones is not shown."""
        return {
            "block": [block.name for block in self.blocks],
            "method": [block.method for block in self.blocks],
            "layers": [str(block.depth) for block in self.blocks],
            "h": [_figure(block.step_size) for block in self.blocks],
            "step bound": [_figure(block.step_bound) for block in self.blocks],
            "growth": [_figure(block.growth) for block in self.blocks],
            "verdict": [block.verdict for block in self.blocks],
        }


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def stability(network: nn.Module, x: Tensor) -> StabilityReport:
    """The stability of every keelnet block of a network (or of one block) at the inputs x.

    For each block: the step bound and the amplification of its layers from their spectra
    (frozen in time, f' at its largest), and σ_max of the Jacobian of the whole block at the features
    that reach it, by power iteration. Raises ValueError where there is no block, for non-finite x,
    and where a block's state becomes non-finite (the message names the layer).
    """
    require_finite(x)
    blocks = {
        name or "0": module for name, module in network.named_modules() if isinstance(module, Block)
    }
    if not blocks:
        raise ValueError(
            f"{type(network).__name__} holds no keelnet Block; for an ordinary network use"
            " kn.analysis.diagnose(module, x)"
        )
    with evaluating(network):
        seen = inputs_of(network, list(blocks.values()), x)
        rows = tuple(
            _measured(name, block, seen[block]) for name, block in blocks.items() if block in seen
        )
    return StabilityReport(rows)


def _measured(name: str, block: Block, y: Tensor) -> BlockStability:
    controls = {key: value.detach() for key, value in block.control.at_layers(block.depth).items()}
    bound = step_bound(block.integrator, block.field, controls, block.step_size)
    row = BlockStability(
        name,
        f"{type(block.integrator).__name__}, {type(block.field).__name__}",
        block.depth,
        float(largest_growth(lambda features: block.propagated(features, store_all), y).max()),
        block.step_size,
    )
    if bound is None:
        return row
    amplification = largest_amplification(block.integrator, block.field, controls, block.step_size)
    return replace(row, step_bound=bound.step_size, amplification=amplification)


def inputs_of(network: nn.Module, parts: list[nn.Module], x: Tensor) -> dict[nn.Module, Tensor]:
    """The tensor that each part gets when the network reads x; absent are parts not met with one tensor."""
    seen: dict[nn.Module, Tensor] = {}

    def remember(part: nn.Module, inputs: tuple[object, ...]) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor):
            seen.setdefault(part, inputs[0].detach())

    handles = [part.register_forward_pre_hook(remember) for part in parts]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module inside, and each module's own mode again afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def require_finite(x: Tensor) -> None:
    """Raise ValueError unless x is a tensor of finite floating-point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not bool(x.isfinite().all()):
        raise ValueError("x must be a tensor of finite floating-point numbers, one sample a row")
