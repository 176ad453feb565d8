"""Assessments: the stability of a recipe's network, before training or after, at inputs of its own task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from keelnet.analysis.portraits import growth_figure, spectra_figure
from keelnet.analysis.reports import BlockStability, StabilityReport
from keelnet.analysis.stability import stability
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.pictures import png
from keelnet.experiments.problems import network_of, problem
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.runs import load_network, load_run
from keelnet.experiments.schemes import coarsest
from keelnet.experiments.spaces import unit_of
from keelnet.experiments.tasks import Withheld

SAMPLES = 8  # of tasks with a label an input; of images whose pixels are labelled, 1
SIDE = 32  # of the noise that stands for a scan, or one that the network can halve


@dataclass(frozen=True)
class Assessment:
    """A report, and in words what was looked at."""

    report: StabilityReport
    subject: str

    def advice(self) -> list[str]:
        """Of each block with a known bound, the largest step size, as depth at the same T."""
        return [line for block in self.report.blocks for line in _advised(block)]


def assess_run(folder: Path, layers: int | None = None) -> Assessment:
    """Of the trained network in a run folder; ``layers``: how many single ones of each block, if any."""
    recipe = load_run(folder).recipe
    return _assessed(recipe, load_network(folder), f"trained, {folder}", layers)


def assess_recipe(recipe: Recipe, layers: int | None = None) -> Assessment:
    """Of the network that training would begin with."""
    first = coarsest(recipe)
    level = f", the first of {recipe.levels} levels" if recipe.levels > 1 else ""
    subject = f"recipe {recipe.name}, before training{level}"
    return _assessed(recipe, network_of(first), subject, layers)


def write(assessment: Assessment, out: Path, overwrite: bool = False) -> list[str]:
    """stability.json and the pictures of each block whose layers were looked at; all of them or none."""
    with OutputFolder.claim(out, overwrite, whole=True) as folder:
        names = ["stability.json"]
        folder.write_text(names[0], assessment.report.to_json() + "\n")
        for block in assessment.report.blocks:
            for kind, draw in _pictures(block).items():
                names.append(f"{kind}-{block.name}.png")
                folder.write_bytes(names[-1], png(draw(block)))
    return names


def _pictures(block: BlockStability) -> dict[str, Callable[[BlockStability], Any]]:
    return {"spectra": spectra_figure, "growth": growth_figure} if block.layers else {}


def _assessed(recipe: Recipe, network: nn.Module, subject: str, layers: int | None) -> Assessment:
    x, words = _inputs(recipe, next(network.parameters()).device)
    return Assessment(stability(network, x, layers), f"{subject}; at {words}")


def _inputs(recipe: Recipe, device: torch.device) -> tuple[Tensor, str]:
    if recipe.on_scans:  # a scan is normalised to zero mean and unit spread
        side = max(SIDE, unit_of(recipe))  # both are powers of 2
        x = torch.randn(
            1, 4, side, side, side, generator=torch.Generator().manual_seed(recipe.seed)
        )
        return x.to(device), f"noise of {side}³ voxels in place of a scan"
    task = problem(recipe, device=device).task
    if not isinstance(task, Withheld) or task.per_pixel:
        return task.example.to(device), "one withheld image"
    x = task.samples.validation[0]
    chosen = x[:: max(1, len(x) // SAMPLES)][:SAMPLES]
    return chosen.to(device), f"{len(chosen)} withheld samples"


def _advised(block: BlockStability) -> list[str]:
    bound, needed, damping = block.advised_step, block.needed_depth, block.advised_damping
    if bound is None or block.step_size is None:
        return []
    reach = f" ({block.reach})" if block.reach else ""
    if needed is None or not math.isfinite(bound):
        held = "" if damping is None else f"; damping γ = {damping:.4g} holds it"
        return [f"{block.name}: {'every' if bound else 'no'} step size is stable{reach}{held}"]
    held = "" if damping is None else f"; or damping γ = {damping:.4g}"
    return [
        f"{block.name}: advised step size h ≤ {bound:.4g}{reach}, {needed} or more layers at T = {block.final_time:.4g}"
        f" (now h = {block.step_size:.4g}, {block.depth} layers){held}"
    ]
