"""The source paper's claims as measured verdicts: each can fail, and some do.

Not judged, because no path of features can decide it: that a propagation "won't generalize well"
and that a learning problem is well- or ill-posed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from keelnet.experiments.seed import DAMPINGS, LONG_DEPTH, Array, Trajectory

# What "stable" and "preserved" allow at 21 layers: Euler itself turns small features 11 % outwards
# there, (1 + h²)^(21/2), which a reader of a picture calls preserved and the strict reading does not.
TOLERANCE = 0.15
GROWN = 2.0
GONE = 0.1


@dataclass(frozen=True)
class Measure:
    """A number of a trajectory, and what it is in words."""

    words: str
    of: Callable[[Trajectory], float]


@dataclass(frozen=True)
class Verdict:
    """A claim, what was measured, and whether it holds: ``number`` ``relation`` ``threshold``.

    ``claim`` is quoted from ``source``; ``reading`` says how it was taken where it leaves a choice;
    ``experiment`` names the trajectory, ``measure`` is the number in words.
    """

    source: str
    claim: str
    experiment: str
    measure: str
    number: float
    relation: Literal["≥", "≤"]
    threshold: float
    reading: str = ""

    @property
    def holds(self) -> bool:
        """False for NaN, too."""
        if self.relation == "≥":
            return self.number >= self.threshold
        return self.number <= self.threshold


@dataclass(frozen=True)
class Claim:
    """A sentence of the source (or of ours, where ``source`` says so) and the test of it."""

    source: str
    text: str
    experiment: str
    measure: Measure
    relation: Literal["≥", "≤"]
    threshold: float
    reading: str = ""

    def judged(self, trajectory: Trajectory) -> Verdict:
        """The verdict on this trajectory, which need not be the claim's own."""
        number = float(self.measure.of(trajectory))
        return Verdict(
            self.source,
            self.text,
            self.experiment,
            self.measure.words,
            number,
            self.relation,
            self.threshold,
            self.reading,
        )


def verdicts(trajectories: Mapping[str, Trajectory]) -> tuple[Verdict, ...]:
    """Every claim, judged on the experiment that it names."""
    return tuple(claim.judged(trajectories[claim.experiment]) for claim in CLAIMS)


def lengths(x: Array) -> Array:
    """|x_i(j)| / |x_i(0)|, (N + 1, features), from x (N + 1, features, channels)."""
    norms = np.linalg.norm(x, axis=-1)
    return norms / norms[0]


def distances(x: Array) -> Array:
    """|x_a(j) − x_b(j)| / |x_a(0) − x_b(0)|, (N + 1, pairs)."""
    pairs = combinations(range(x.shape[1]), 2)
    return np.stack([lengths(x[:, [a]] - x[:, [b]])[:, 0] for a, b in pairs], axis=-1)


def opposition(x: Array) -> float:
    """Growth of |x₁ − x₂| times −cos∠(x₁, x₂), at the last layer: large if they part oppositely."""
    first, second = x[-1, 0], x[-1, 1]
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    return float(-cosine * distances(x)[-1, 0])


def wander(x: Array) -> float:
    """Over the last half: the farthest that each x_i goes from its mean, by |x_i(0)|; the least."""
    late = last_half(x)
    farthest = np.linalg.norm(late - late.mean(axis=0), axis=-1).max(axis=0)
    return float((farthest / np.linalg.norm(x[0], axis=-1)).min())


def energy_drift(trajectory: Trajectory) -> float:
    """|mean energy of the last half / mean energy of the first half − 1|, the largest."""
    if trajectory.energy is None:
        raise ValueError(
            "a trajectory without energy came; run an experiment on a HamiltonianField"
        )
    energy = trajectory.energy
    late, early = last_half(energy), energy[: len(energy) // 2]
    return deviation(late.mean(axis=0) / early.mean(axis=0))


def last_half(x: Array) -> Array:
    """The layers from N / 2 on."""
    return x[len(x) // 2 :]


def deviation(ratios: Array) -> float:
    """max |ratio − 1|."""
    return float(np.abs(ratios - 1).max())


LEAST_LENGTH = Measure(
    "the least of |y_i(N)| / |y_i(0)| over the features", lambda run: lengths(run.y)[-1].min()
)
MOST_LENGTH = Measure(
    "the largest of |y_i(N)| / |y_i(0)| over the features", lambda run: lengths(run.y)[-1].max()
)
LEAST_DISTANCE = Measure(
    "the least growth of a distance between two features from layer 0 to N",
    lambda run: distances(run.y)[-1].min(),
)
MOST_DISTANCE = Measure(
    "the largest share of a distance between two features that is left at layer N",
    lambda run: distances(run.y)[-1].max(),
)
OPPOSITION = Measure(
    "growth of |y1 − y2| times −cos of the angle between y1(N) and y2(N); y2 = −y1 and tanh is odd,"
    " so they are opposite from the start on and the growth decides",
    lambda run: opposition(run.y),
)
CLOSEST = Measure(
    "the least of any distance, at any layer, by what it was at layer 0",
    lambda run: distances(run.y).min(),
)
DISTANCE_DRIFT = Measure(
    "the largest relative change of any distance at any layer",
    lambda run: deviation(distances(run.y)),
)
DRIFT = Measure(
    "the largest relative change of any length or distance at any layer",
    lambda run: max(deviation(lengths(run.y)), deviation(distances(run.y))),
)
PEAK = Measure(
    "the largest of |y_i| / |y_i(0)| over the last half of the layers",
    lambda run: last_half(lengths(run.y)).max(),
)
STATE_DRIFT = Measure(
    "the largest relative change of any |(y, z)| at any layer",
    lambda run: deviation(lengths(run.state)),
)
LEAST_STATE = Measure(
    "the least of |(y_i, z_i)| / |y_i(0)| over the last half of the layers",
    lambda run: last_half(lengths(run.state)).min(),
)
LEAST_Y = Measure(
    "the least of |y_i| / |y_i(0)|, without z, at any layer of the last half",
    lambda run: last_half(lengths(run.y)).min(),
)
WANDER = Measure(
    "how far every y_i still goes from its mean over the last half, by |y_i(0)|, the least",
    lambda run: wander(run.y),
)
ENERGY_DRIFT = Measure(
    "the relative change of the mean energy from the first half of the layers to the last",
    energy_drift,
)

DIVERGE = "the features diverge from the origin and one another"
STABLE = "we attain a stable behavior for the forward propagation"
BOUNDED = "the features do not explode or vanish asymptotically"
LASTING = f"as lasting, to N = {LONG_DEPTH}"


def _euler_claims() -> tuple[Claim, ...]:
    plus, minus, zero = (f"euler_N21/{sign}" for sign in ("plus", "minus", "zero"))
    opposite = (
        "y₁ and y₂, which were initially near to one another, diverge into opposite directions"
    )
    center = "the features accumulate in the center"
    gone = "The differences between the features are annihilated"
    apart = "the features remain well separated"
    kept = "distances between them are preserved"
    stable = "This leads to a stable forward propagation"
    long = f"euler_N{LONG_DEPTH}/zero"
    return (
        Claim("Fig. 2(b)", DIVERGE, plus, LEAST_LENGTH, "≥", GROWN, "from the origin"),
        Claim("Fig. 2(b)", DIVERGE, plus, LEAST_DISTANCE, "≥", GROWN, "and one another"),
        Claim("Fig. 2(b)", opposite, plus, OPPOSITION, "≥", GROWN),
        Claim("Fig. 2(c)", center, minus, MOST_LENGTH, "≤", GONE),
        Claim("Fig. 2(c)", gone, minus, MOST_DISTANCE, "≤", GONE),
        Claim("Fig. 2(d)", apart, zero, CLOSEST, "≥", 1 - TOLERANCE),
        Claim("Fig. 2(d)", kept, zero, DISTANCE_DRIFT, "≤", TOLERANCE, "as a picture shows it"),
        Claim("Fig. 2(d)", kept, zero, DISTANCE_DRIFT, "≤", 0.01, "strictly, to 1 %"),
        Claim("Fig. 2(d)", stable, long, PEAK, "≤", 1 + TOLERANCE, LASTING),
    )


def _antisymmetric_claims() -> tuple[Claim, ...]:
    panels = (("e", "plus"), ("f", "minus"))
    at_panels = tuple(
        Claim(
            f"Fig. 2({panel})",
            STABLE,
            f"antisymmetric_N21/{sign}_gamma_{damping}",
            DRIFT,
            "≤",
            TOLERANCE,
            f"γ = {damping:g}",
        )
        for panel, sign in panels
        for damping in DAMPINGS
    )
    long = f"antisymmetric_N{LONG_DEPTH}/plus_gamma_0.1"
    lasting = f"γ = 0.1, {LASTING}"
    return (*at_panels, Claim("Fig. 2(e)", STABLE, long, PEAK, "≤", 1 + TOLERANCE, lasting))


def _misprint_claims() -> tuple[Claim, ...]:
    """Ours: why K − Kᵀ is what the source computed, though it prints K + Kᵀ."""
    ours = "our reading of Fig. 2"
    plus, minus = "misprint_N21/plus", "misprint_N21/minus"
    grows = "the printed K₊ + K₊ᵀ makes the features grow, so it did not give Fig. 2(e)"
    shrinks = "the printed K₋ + K₋ᵀ makes the features shrink, so it did not give Fig. 2(f)"
    return (
        Claim(ours, grows, plus, LEAST_LENGTH, "≥", GROWN),
        Claim(ours, shrinks, minus, MOST_LENGTH, "≤", 1 / GROWN),
    )


def _verlet_claims(reading: str) -> tuple[Claim, ...]:
    source = f"Fig. 3, y in {'R³' if reading == 'y_in_R3' else 'R²'}"
    short, long = (f"verlet/N{depth}_full/{reading}" for depth in (20, LONG_DEPTH))
    transformation = "a stable transformation of the features for short term (N = 20)"
    lively = "non-trivial long term characteristics (N = 1000)"
    remains = "The network remains stable"
    alone = "not vanish, read strictly: y without z, at every single layer"
    return (
        Claim(source, transformation, short, STATE_DRIFT, "≤", TOLERANCE),
        Claim(source, lively, long, WANDER, "≥", 0.5),
        Claim(source, BOUNDED, long, PEAK, "≤", 1 + TOLERANCE, "not explode"),
        Claim(source, BOUNDED, long, LEAST_STATE, "≥", 1 - TOLERANCE, "not vanish: y and z"),
        Claim(source, BOUNDED, long, LEAST_Y, "≥", GONE, alone),
        Claim(source, remains, long, ENERGY_DRIFT, "≤", 0.01, "no drift of the energy"),
    )


CLAIMS = (
    *_euler_claims(),
    *_antisymmetric_claims(),
    *_misprint_claims(),
    *_verlet_claims("y_in_R3"),
    *_verlet_claims("y_in_R2"),
)
