"""Scenes: everything that determines a picture of the plane, and its form as a query string."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal
from urllib.parse import urlencode

from keelnet.dynamics.activations import KNOWN
from keelnet.propagation.shears import Start

Rows = tuple[tuple[float, ...], ...]
FieldName = Literal["plain", "antisymmetric", "symmetric", "hamiltonian", "double_hamiltonian"]
IntegratorName = Literal["euler", "rk4", "midpoint", "leapfrog", "verlet"]
Variation = Literal["constant", "smooth", "abrupt"]

ONE_PART: tuple[FieldName, ...] = ("plain", "antisymmetric", "symmetric")
TWO_PARTS: tuple[FieldName, ...] = ("hamiltonian", "double_hamiltonian")
# Which fields a method moves.
MOVES: Mapping[IntegratorName, tuple[FieldName, ...]] = {
    "euler": ONE_PART + TWO_PARTS,
    "rk4": ONE_PART + TWO_PARTS,
    "midpoint": ONE_PART,
    "leapfrog": ONE_PART,
    "verlet": TWO_PARTS,
}
STAGGERED: tuple[IntegratorName, ...] = ("leapfrog", "verlet")
SQUARE: tuple[FieldName, ...] = ("plain", "antisymmetric")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "integrator": tuple(MOVES),
    "field": ONE_PART + TWO_PARTS,
    "start": ("full", "half"),
    "activation": tuple(KNOWN),
    "variation": ("constant", "smooth", "abrupt"),
}

SIZES = (2, 3)  # rows and columns of K
MOST_LAYERS = 10_000
MOST_FEATURES = 12
MOST_PATHS = 1000
MOST_POINTS = 2_000_000  # paths × layers: beyond, a picture takes seconds
SHORTEST = 1e-9  # of a period: below, its sine is that of no number
LARGEST = 1e6  # of a typed number: past it nothing can be seen


@dataclass(frozen=True)
class Scene:
    """A network of N identical (or slowly changing) layers, and the features that go through it.

    kernel: K, acting as ``y @ K``. bias: u of f(y K + u), one row for each bias of the field (`biases`) or none for 0; the
    same in all layers. K(t) = K (1 + strength · s(t)): s = 0 ("constant"), sin(2π t / period)
    ("smooth") or its sign ("abrupt"); of two kernels the second alone changes. damping: γ of the
    antisymmetric field, None for the least that holds. features: the first two coordinates of each, any other
    starts at 0. cloud: so many more points, spread over a disc of radius ``spread``.
    Raises ValueError for what cannot be computed or shown.
    """

    integrator: IntegratorName = "euler"
    field: FieldName = "plain"
    start: Start = "full"
    activation: str = "tanh"
    kernel: Rows = ((2.0, -2.0), (0.0, 2.0))
    bias: Rows = ()
    damping: float | None = 0.0
    step_size: float = 0.1
    depth: int = 21
    variation: Variation = "constant"
    strength: float = 0.0
    period: float = 2.0
    features: Rows = ((0.1, 0.1), (-0.1, -0.1), (0.0, 0.5))
    cloud: int = 0
    spread: float = 0.5

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        self._require_fit()
        self._require_bias()
        self._require_numbers()
        self._require_size()

    @property
    def paths(self) -> int:
        """Features and points of the cloud."""
        return len(self.features) + self.cloud

    @property
    def channels(self) -> tuple[int, int]:
        """Of y and of z; one-part fields have no z."""
        rows, columns = len(self.kernel), len(self.kernel[0])
        if self.field not in TWO_PARTS:
            return rows, 0
        return rows, columns if self.field == "hamiltonian" else rows

    @property
    def biases(self) -> tuple[int, int]:
        """How many biases the field has, and numbers in each: one for both halves of a rectangular Hamiltonian kernel."""
        rows, columns = len(self.kernel), len(self.kernel[0])
        if self.field == "hamiltonian":
            return 1, columns if rows == columns else 1
        return (2 if self.field == "double_hamiltonian" else 1), columns

    def as_query(self) -> str:
        """The query string of a permalink: what differs from the first scene is enough, all is said."""
        return urlencode({each.name: _text(getattr(self, each.name)) for each in fields(self)})

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Scene:
        """The scene that a query string names; what it leaves out is as in the first scene.

        Unknown names are left alone: a permalink may hold the page's own (the tab, the layer shown).
        """
        known = {each.name for each in fields(cls)}
        values = {
            name: _READERS.get(name, _as_it_is)(name, query[name]) for name in known & query.keys()
        }
        return cls(**values)  # type: ignore[arg-type]

    def _require_fit(self) -> None:
        if self.field not in MOVES[self.integrator]:
            raise ValueError(
                f"{self.integrator} does not move the {self.field} field; it moves"
                f" {', '.join(MOVES[self.integrator])}"
            )
        rows, columns = len(self.kernel), {len(row) for row in self.kernel}
        if rows not in SIZES or len(columns) != 1 or not columns <= set(SIZES):
            raise ValueError("the kernel must have 2 or 3 rows and 2 or 3 columns")
        if self.field in SQUARE and columns != {rows}:
            raise ValueError(
                f"the {self.field} field needs a square kernel, got {rows} × {columns.pop()}"
            )

    def _require_bias(self) -> None:
        count, width = self.biases
        if self.bias and [len(row) for row in self.bias] != [width] * count:
            raise ValueError(
                f"the bias of the {self.field} field and this kernel has {count} × {width} numbers, got"
                f" {' + '.join(str(len(row)) for row in self.bias)}"
            )
        for i, row in enumerate(self.bias, 1):
            for j, value in enumerate(row, 1):
                _require_finite(f"bias entry {i}, {j}", value)

    def _require_numbers(self) -> None:
        for i, row in enumerate(self.kernel, 1):
            for j, value in enumerate(row, 1):
                _require_finite(f"kernel entry {i}, {j}", value)
        for i, feature in enumerate(self.features, 1):
            if len(feature) != 2:
                raise ValueError(f"feature {i} must have two coordinates, got {len(feature)}")
            for value in feature:
                _require_finite(f"feature {i}", value)
        if self.damping is not None:
            _require_between("damping γ", self.damping, 0, LARGEST)
        for name, value in (
            ("step size h", self.step_size),
            ("period", self.period),
            ("spread", self.spread),
        ):
            if not value > 0 or not value <= LARGEST:
                raise ValueError(f"{name} must be a finite number above 0, got {value:g}")
        if self.variation != "constant":
            _require_between("period", self.period, SHORTEST, LARGEST)
        _require_between("strength", self.strength, 0, 1)

    def _require_size(self) -> None:
        _require_between("depth", self.depth, 1, MOST_LAYERS, " layers")
        _require_between("the number of features", len(self.features), 0, MOST_FEATURES)
        _require_between("cloud", self.cloud, 0, MOST_PATHS, " points")
        if self.paths == 0:
            raise ValueError("there is no feature; click into the plane to add one")
        if self.paths * self.depth > MOST_POINTS:
            raise ValueError(
                f"{self.paths} paths × {self.depth} layers are more than {MOST_POINTS} points;"
                " take fewer paths or fewer layers"
            )


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ValueError(f"{name} must be a finite number between ±{LARGEST:g}, got {value:g}")


def _require_between(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:
        raise ValueError(
            f"{name} must lie between {low:g} and {high:,.10g}{unit}, got {value:,.10g}"
        )


def _text(value: object) -> str:
    """A setting in a query: matrices as 2,-2;0,2."""
    if isinstance(value, tuple):
        return ";".join(",".join(_text(number) for number in row) for row in value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "auto" if value is None else str(value)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _count(name: str, text: str) -> int:
    value = _number(name, text)
    if not value.is_integer():
        raise ValueError(f"{name} must be a whole number, got {text!r}")
    return int(value)


def _rows(name: str, text: str) -> Rows:
    rows = [row for row in text.split(";") if row.strip()]
    return tuple(tuple(_number(name, entry) for entry in row.split(",")) for row in rows)


def _damping(name: str, text: str) -> float | None:
    return None if text == "auto" else _number(name, text)


def _as_it_is(name: str, text: str) -> str:
    return text


_READERS: Mapping[str, Callable[[str, str], object]] = {
    "kernel": _rows,
    "bias": _rows,
    "features": _rows,
    "damping": _damping,
    "depth": _count,
    "cloud": _count,
    **dict.fromkeys(("step_size", "strength", "period", "spread"), _number),
}
