"""Reports: what was found of each block: the numbers, the verdict that they lead to, and what would help."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from keelnet.analysis.advice import GROWS, advice_for
from keelnet.analysis.layers import LayerStability
from keelnet.analysis.levels import TOLERANCE, level
from keelnet.analysis.tables import factor, figure, listed, plain, table, wrapped
from keelnet.propagation import Integrator


@dataclass(frozen=True)
class BlockStability:
    """One block, at the features that reach it; of the samples, the worst.

    name: its dotted name, or its position where it has none. method: what it computes. growth, smallest: the largest and the
    least singular value of its Jacobian: how much a perturbation can grow and shrink (converged and least_converged: whether
    the iterations reached them; else the truth is beyond). sample: which grows most. amplification: the largest |R(h λ)| of a
    layer, frozen in time, f' at its largest; step_bound the largest h without growth, set by bound_layer (None where it is
    not known). For a SingleField they are those of f' = its slope everywhere: an orientation, not a bound, since f' that
    differs from entry to entry turns the spectrum; reach says so, or that under a norm or IMEX they are of the layers or
    eigenvalues that were looked at. damping: the γ that would hold Euler at this h; None where none would, and for other
    methods. energy_deviation, energy_drift and reversal_error as in `Invariants`. layers: details of those asked for;
    course: (largest, least) after every layer, see `growth_by_layer`. obstacle: why there is no growth to measure; then growth is inf for the block that is to blame, nan for others.
    """

    name: str
    method: str
    depth: int
    growth: float
    step_size: float | None = None
    step_bound: float | None = None
    amplification: float | None = None
    smallest: float | None = None
    converged: bool = True
    least_converged: bool = True
    sample: int = 0
    bound_layer: int | None = None
    damping: float | None = None
    reach: str | None = None
    energy_deviation: float | None = None
    energy_drift: float | None = None
    reversal_error: float | None = None
    layers: tuple[LayerStability, ...] = ()
    course: tuple[tuple[float, float], ...] = ()
    integrator: Integrator | None = None
    obstacle: str | None = None

    @property
    def final_time(self) -> float | None:
        """T = N h."""
        return None if self.step_size is None else self.depth * self.step_size

    @property
    def exponents(self) -> tuple[float, float] | None:
        """Finite-time Lyapunov exponents log(σ) / T, the largest and the least; of a block without h, T is its depth."""
        if self.smallest is None or not math.isfinite(self.growth):
            return None
        time = self.final_time or self.depth
        return tuple(
            math.log(s) / time if s > 0 else -math.inf for s in (self.growth, self.smallest)
        )  # type: ignore[return-value]

    @property
    def advised_step(self) -> float | None:
        """The largest h within every bound that is known, of the block and of layers that were looked at; 0: none holds."""
        bounds = [self.step_bound, *(layer.step_bound for layer in self.layers)]
        return min((each for each in bounds if each is not None and each >= 0), default=None)

    @property
    def needed_depth(self) -> int | None:
        """The least N for which T / N is within ``advised_step``; None where no N is, or none is known."""
        return _depth_within(self.final_time, self.advised_step)

    @property
    def advised_damping(self) -> float | None:
        """``damping`` where it helps: γ is that of the largest f', of no use where another f' grows, or no frozen layer does."""
        if self.amplification is None or not 1 + TOLERANCE < self._frozen <= self.amplification:
            return None
        return self.damping or None

    @property
    def verdict(self) -> str:
        """unstable, marginal or dissipative by the layers' amplification and the growth; else by the growth alone.

        The amplification takes f' at its largest, or as it is in a layer that was looked at: where activations saturate, the
        growth that was measured stays far below its power. A block that grows at all is not dissipative, see `level`.
        """
        if math.isnan(self.growth):
            return f"not measured: {self.obstacle or 'not finite'}"
        if not math.isfinite(self.growth):
            return f"unstable: {self.obstacle or 'not finite'}"
        if self.amplification is None:
            return "grows" if self.growth > 1 + GROWS else "does not grow"
        if self._frozen > 1 + TOLERANCE:
            return f"unstable: up to ×{self._frozen:.6g} a layer"
        word = level(self._frozen, self.growth)
        if self.growth > 1 + GROWS:
            none = "that was looked at grows" if self.layers else "grows at the largest f'"
            return f"{word}: ×{self.growth:.3g} in all, though no layer {none}"
        if word == "dissipative":
            return f"{word}: up to ×{self._frozen:.6g} a layer"
        return f"{word}: neither grows nor decays"

    @property
    def _frozen(self) -> float:
        """The largest |R(h λ)| that is known, f' at its largest or as in the layers that were looked at."""
        found = [layer.amplification for layer in self.layers]
        return max(self.amplification or 0.0, *(each for each in found if math.isfinite(each)), 0.0)

    @property
    def unstable(self) -> bool:
        return self.verdict.startswith(("unstable", "grows"))

    @property
    def reasons(self) -> str:
        """The numbers behind the verdict, in a sentence."""
        parts = [self._stretch()]
        if self.step_bound is not None and self.step_size is not None:
            where = "" if self.bound_layer is None else f" (layer {self.bound_layer + 1})"
            parts.append(f"h = {self.step_size:.4g}, its bound {self.step_bound:.4g}{where}")
        if self.energy_deviation is not None and self.energy_drift is not None:
            parts.append(
                f"energy deviates by {self.energy_deviation:.2%}, drifts by {self.energy_drift:+.2%}"
            )
        if self.reversal_error is not None:
            parts.append(f"stepped back with an error of {self.reversal_error:.1e}")
        return "; ".join(parts)

    def _stretch(self) -> str:
        if self.smallest is None or self.exponents is None:
            return f"a perturbation grows ×{self.growth:.4g}"
        at_least, at_most = "" if self.converged else "≥ ", "" if self.least_converged else "≤ "
        up, down = self.exponents
        return (
            f"perturbations stretch ×{at_most}{self.smallest:.3g} to ×{at_least}{self.growth:.4g}"
            f" (exponents {down:+.3g} to {up:+.3g})"
        )

    @property
    def advice(self) -> str | None:
        """What would hold an unstable block; None for others."""
        if not self.unstable or self.obstacle is not None:
            return None
        if self.amplification is None and self.step_size is None:
            if self.integrator is None:
                return "it changes the shape, so no method holds it as a step; smaller weights do"
            return advice_for(self.layers[0] if self.layers else None)
        if self._frozen <= 1 + TOLERANCE and self.amplification is None:
            if len(self.layers) < self.depth:
                return 'look at the spectra of its layers (layers="all"): a smaller h, or a branch with another spectrum'
            if not all(layer.certain for layer in self.layers):
                return "eigenvalues of its layers that were not found may grow: a smaller h, or a branch with another spectrum"
        if self._frozen <= 1 + TOLERANCE:
            return (
                "let θ(t) change more slowly (smoothness), or take the one-kernel HamiltonianField"
            )
        ways = []
        bound, depth = self.advised_step, self.needed_depth
        if bound is not None and depth is not None and math.isfinite(bound):
            ways.append(f"h ≤ {bound:.4g}: {depth} layers at T = {self.final_time:g}")
        if self.advised_damping is not None:
            ways.append(f"damping γ = {self.advised_damping:.4g}")
        lost = "no h that holds it is known" if bound is None else "no h holds it"
        return " or ".join(ways) or f"{lost}: use a HamiltonianField under Verlet"


@dataclass(frozen=True)
class StabilityReport:
    """The blocks in the order in which they are met, and what a reader must know; ``str()`` is a table."""

    blocks: tuple[BlockStability, ...]
    notes: tuple[str, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether no block was found unstable or growing, and none was left unmeasured."""
        return not any(block.unstable or math.isnan(block.growth) for block in self.blocks)

    @property
    def worst(self) -> BlockStability:
        """The block that grows most; of blocks that are not finite the first."""
        return max(
            self.blocks, key=lambda block: -1.0 if math.isnan(block.growth) else block.growth
        )

    def as_table(self) -> dict[str, Any]:
        """Plain values; what is not finite is None, a complex number [real, imaginary]."""
        blocks = [
            plain(block)
            | {
                name: plain(getattr(block, name))
                for name in ("verdict", "reasons", "advice", "exponents", "needed_depth")
            }
            for block in self.blocks
        ]
        return {
            "stable": self.stable,
            "largest": self.worst.name,
            "blocks": blocks,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """``as_table`` as JSON."""
        return json.dumps(self.as_table(), ensure_ascii=False, allow_nan=False, indent=2)

    def __str__(self) -> str:
        parts = [table("Stability, block by block", self._columns())]
        looked = [(block, layer) for block in self.blocks for layer in block.layers]
        if looked:
            parts.append(table("Stability, layer by layer", _layer_columns(looked)))
        for block in self.blocks:
            if block.step_size is not None:
                parts.append(f"{block.name}: {block.reasons}\n")
        parts.append(f"{self._largest()}\n")
        parts += [wrapped(f"{listed(names)}: {advice}") for advice, names in self._advised()]
        parts += [wrapped(f"note: {note}") for note in self.notes]
        return "".join(parts)

    def _largest(self) -> str:
        worst = self.worst
        if not math.isfinite(worst.growth):
            return f"largest: block {worst.name}: {worst.obstacle or 'not finite'}"
        at_least = "" if worst.converged else "at least "
        return f"largest: block {worst.name} multiplies a perturbation by {at_least}{factor(worst.growth)}"

    def _advised(self) -> list[tuple[str, list[str]]]:
        """Each advice once, with the blocks that it is for."""
        found: dict[str, list[str]] = {}
        for block in self.blocks:
            if block.advice is not None:
                aim = "" if block.step_size is None else "to hold it, "
                found.setdefault(aim + block.advice, []).append(block.name)
        return list(found.items())

    def _columns(self) -> dict[str, list[str]]:
        """Cells by heading; a column of empty ones is not shown."""
        return {
            "block": [block.name for block in self.blocks],
            "method": [block.method for block in self.blocks],
            "layers": [
                "" if block.step_size is None else str(block.depth) for block in self.blocks
            ],
            "h": [figure(block.step_size) for block in self.blocks],
            "step bound": [figure(block.step_bound) for block in self.blocks],
            "growth": [_growth(block) for block in self.blocks],
            "verdict": [block.verdict for block in self.blocks],
        }


def _growth(block: BlockStability) -> str:
    return factor(block.growth) if block.converged else f"≥ {factor(block.growth)}"


def _layer_columns(looked: list[tuple[BlockStability, LayerStability]]) -> dict[str, list[str]]:
    layers = [layer for _, layer in looked]
    return {
        "block": [block.name for block, _ in looked],
        "layer": [
            "" if block.step_size is None else str(layer.layer + 1) for block, layer in looked
        ],
        "max Re λ": [_abscissa(each) for each in layers],
        "numerical": [figure(each.spectrum.numerical) for each in layers],
        "max |R|": [_sided(each, f"{each.amplification:.6g}") for each in layers],
        "margin": [_at_most(each, _margin(each.margin)) for each in layers],
        "step bound": [_at_most(each, figure(each.step_bound)) for each in layers],
        "N for it": [
            ""
            if block.final_time is None
            else _sided(layer, _depth_for(block.final_time, layer.step_bound))
            for block, layer in looked
        ],
        "σ max": ["≥ " * (not each.largest_converged) + figure(each.largest) for each in layers],
        "σ min": ["≤ " * (not each.smallest_converged) + figure(each.smallest) for each in layers],
        "γ": [_damping(each) for each in layers],
    }


def _sided(layer: LayerStability, text: str) -> str:
    """Eigenvalues that are not known may lie further out."""
    if math.isnan(layer.amplification):
        return "?"
    return text if layer.certain or text in ("?", "none") else f"≥ {text}"


def _at_most(layer: LayerStability, text: str) -> str:
    return text if layer.certain or text in ("?", "0") else f"≤ {text}"


def _damping(layer: LayerStability) -> str:
    """Of the eigenvalues that are known; others may want more."""
    text = figure(layer.damping)
    known = layer.spectrum.complete or (layer.certain and not layer.damping)
    return text if known or not text else f"≥ {text}"


def _margin(value: float) -> str:
    return "?" if math.isnan(value) else f"{round(value, 12) + 0.0:+.3g}"


def _abscissa(layer: LayerStability) -> str:
    low, high = layer.spectrum.bounds
    return figure(low) if layer.spectrum.converged else f"{figure(low)} … {figure(high)}"


def _depth_for(time: float, bound: float) -> str:
    return "?" if math.isnan(bound) else str(_depth_within(time, bound) or "none")


def _depth_within(time: float | None, bound: float | None) -> int | None:
    """The least N with T / N within the bound on h; None where there is none."""
    if time is None or bound is None or not bound > 0:
        return None
    return max(1, math.ceil(time / bound * (1 - 1e-12)))
