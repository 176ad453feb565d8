"""Uncertainty: how sure a segmentation is of itself, and how far a change of its input can move it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from keelnet.analysis.conditions import recorded, require_finite
from keelnet.analysis.derivatives import Jacobian, Recomputed, sound
from keelnet.analysis.singular import direction, divided, norms
from keelnet.analysis.visits import evaluating, measuring
from keelnet.dynamics.kernels import require_count
from keelnet.networks.network import propagating
from keelnet.propagation import store_all

CONVERGED = 1e-3  # relative change of σ_max from one iteration to the next


def entropy(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """(regions, *space) logits → (*space) bits: −p log₂ p − (1 − p) log₂ (1 − p) of the most doubtful region.

    0 where every region is certain, 1 where one is a coin's toss.
    """
    doubt = np.zeros(logits.shape[1:], np.float32)
    for region in logits:  # one after the other: the volume may be large
        size = np.minimum(np.abs(region.astype(np.float32)), 80)
        # With s = |logit| and q = e^(−s): H = (log(1 + q) + s q / (1 + q)) / log 2.
        q = np.exp(-size)
        np.maximum(doubt, (np.log1p(q) + size * q / (1 + q)) / np.log(2), out=doubt)
    return np.minimum(doubt, 1.0)


@dataclass(frozen=True)
class Sensitivity:
    """What a small change of the input does to the logits of a network, to first order.

    growth: σ_max of the Jacobian ∂logits/∂x, the largest ‖Δlogits‖ / ‖Δx‖: a lower bound that rises with the
    iterations, ``converged`` when they changed it by less than 10⁻³. flip: median over voxels at the edge of the
    prediction of |logit| / ‖∇ₓ logit‖, the length of the smallest change of x that turns one of them; None
    where there is no edge. Lengths are Euclidean over all channels and voxels, in the units of x.
    """

    growth: float
    iterations: int
    converged: bool
    flip: float | None
    numbers: int

    def __str__(self) -> str:
        least = "" if self.converged else "or more (still rising) "
        text = f"A small change of the input can move the logits by {self.growth:.3g} times its own length {least}".rstrip()
        if self.flip is None:
            return f"{text}; no voxel is at an edge."
        spread = self.flip / self.numbers**0.5
        return (
            f"{text}; the smallest change that turns a voxel at the edge of the prediction has length"
            f" {self.flip:.3g} (as even noise over the patch: {spread:.2g} of the intensities' spread)."
        )


@measuring()
def sensitivity(
    network: nn.Module, x: Tensor, iterations: int = 30, edges: int = 12, seed: int = 0
) -> Sensitivity:
    """The sensitivity of a network (1, channels, *space) → (1, regions, *space) at x.

    σ_max by power iteration on JᵀJ; ``edges`` voxels are drawn among those beside a change of sign of the first
    region's logit. Under ``reversible`` no second derivative exists, so blocks store their states meanwhile; where a
    custom Function has none, σ_max is bounded from below by first derivatives alone.
    Raises ValueError for less than one iteration, where x is not one finite sample, and for a network that was made in inference mode.
    """
    require_count("iterations", iterations)
    require_finite(x)
    if len(x) != 1:
        raise ValueError(f"one sample (1, channels, *space) was wanted, got {tuple(x.shape)}")
    x = recorded(network, x)
    with propagating(network, strategy=store_all), evaluating(network):
        jacobian = sound(network, x)
        growth, count, converged = _growth(jacobian, iterations, seed)
        return Sensitivity(growth, count, converged, _flip(jacobian, edges, seed), x.numel())


def _growth(jacobian: Jacobian | Recomputed, iterations: int, seed: int) -> tuple[float, int, bool]:
    v = direction(jacobian.y, seed)
    found, before = 0.0, 0.0
    for count in range(1, iterations + 1):
        w = jacobian.pushed(divided(v, norms(v)))
        found = float(norms(w))
        v = jacobian.pulled(divided(w, norms(w)))
        if not jacobian.certain:
            # A rough J v leads to a direction as well; what Jᵀ makes of that one is never more than σ_max.
            found = float(norms(v))
        if abs(found - before) <= CONVERGED * found and count > 1:
            return found, count, True
        before = found
    return found, iterations, False


def _flip(jacobian: Jacobian | Recomputed, edges: int, seed: int) -> float | None:
    logits = jacobian.value[0, 0].detach()
    places = _edge(logits > 0).nonzero()
    if not len(places):
        return None
    generator = torch.Generator("cpu").manual_seed(seed)
    chosen = places[torch.randperm(len(places), generator=generator, device="cpu")[:edges]]
    lengths = []
    for place in chosen:
        at = (0, 0, *place.tolist())
        row = torch.zeros_like(jacobian.value)
        row[at] = 1.0
        slope = float(jacobian.pulled(row).norm())
        lengths.append(abs(float(jacobian.value.detach()[at])) / max(slope, 1e-30))
    return float(np.median(lengths))


def _edge(inside: Tensor) -> Tensor:
    """Voxels that have a neighbour along an axis on the other side."""
    edge = torch.zeros_like(inside)
    for axis in range(inside.ndim):
        differs = inside.narrow(axis, 1, inside.shape[axis] - 1) != inside.narrow(
            axis, 0, inside.shape[axis] - 1
        )
        edge.narrow(axis, 0, inside.shape[axis] - 1).logical_or_(differs)
        edge.narrow(axis, 1, inside.shape[axis] - 1).logical_or_(differs)
    return edge
