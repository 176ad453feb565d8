"""The ledger: what a run's memory is spent on, and sizes as people write them."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([KMGT]?)(I?)B?", re.IGNORECASE)


def bytes_in(text: str) -> int:
    """Bytes of a size such as 4GB, 4GiB, 800MB, 3.5G: GB is 10⁹ bytes, GiB is 2³⁰, and B may be left out.

    Raises ValueError for what is no size above 0.
    """
    found = _SIZE.fullmatch(text.strip())
    if found:
        number, letter, binary = found.group(1), found.group(2).upper(), found.group(3)
        unit = (_BINARY if binary else _UNITS).get(letter)
        if unit is not None and 1 <= float(number) * unit < 2**63:
            return int(float(number) * unit)
    raise ValueError(f"a size of memory is written like 4GB, 4GiB, 800MB or 3.5G, got {text!r}")


def as_text(size: float) -> str:
    """Bytes as people read them, three digits: 1.24 GB, 87.5 MB, 512 B; thousands, not 1024."""
    for letter in ("", "k", "M", "G", "T"):
        shown = f"{size:.0f}" if not letter else _three_digits(size)
        if abs(size) < 999.5 or letter == "T":
            return f"{shown} {letter}B"
        size /= 1000
    raise AssertionError


def _three_digits(value: float) -> str:
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, 3 - whole)}f}"


@dataclass(frozen=True)
class Ledger:
    """Bytes that a training process needs at its peak, by what they are for.

    process: interpreter, libraries, and the code compiled for the first steps: what a training on next to nothing
    takes, less its weights. parameters, gradients, optimiser (the moments), weights_kept (the average if there is
    one, and the best iterate). activations: kept for the backward pass, without the batch. working: all that
    comes and goes. data: the batch, a prepared case (mapped from its files while it is in use), and what is
    private to the processes that cut patches.
    """

    process: int
    parameters: int
    gradients: int
    optimiser: int
    weights_kept: int
    activations: int
    working: int
    data: int

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size < 0:
                raise ValueError(f"{name} cannot be negative, got {size}")

    @property
    def peak(self) -> int:
        """The largest resident size."""
        return sum(asdict(self).values())

    @property
    def growth(self) -> int:
        """What the run adds to the process that it starts in."""
        return self.peak - self.process


@dataclass(frozen=True)
class Weights:
    """Bytes of a network's parameters, of the optimiser's state, and whether training keeps an average."""

    parameters: int
    optimiser: int
    averaged: bool

    @property
    def kept(self) -> int:
        """Of the best iterate, and of the average if there is one."""
        return (1 + self.averaged) * self.parameters

    @property
    def bytes(self) -> int:
        """Parameters, gradients and all that training keeps beside them."""
        return 2 * self.parameters + self.optimiser + self.kept

    def ledger(self, process: int, kept: int, data: int, peak: int) -> Ledger:
        """The parts of a peak, of which ``working`` is what the others leave."""
        known = process + self.bytes + kept + data
        return Ledger(
            process=process,
            parameters=self.parameters,
            gradients=self.parameters,
            optimiser=self.optimiser,
            weights_kept=self.kept,
            activations=kept,
            working=max(0, peak - known),
            data=data,
        )


@dataclass(frozen=True)
class Line:
    """y = constant + slope · share, by least squares: how a peak grows with the share of the work."""

    constant: float
    slope: float

    @staticmethod
    def through(points: list[tuple[float, float]]) -> Line:
        """The line nearest to the points (share, y); through one point, a constant."""
        if not points:
            raise ValueError("a line needs at least one point")
        mean = math.fsum(x for x, _ in points) / len(points)
        height = math.fsum(y for _, y in points) / len(points)
        spread = math.fsum((x - mean) ** 2 for x, _ in points)
        if spread == 0:
            return Line(height, 0.0)
        slope = math.fsum((x - mean) * (y - height) for x, y in points) / spread
        return Line(height - slope * mean, slope)

    def at(self, share: float) -> float:
        return self.constant + self.slope * share
