"""Settings: everything that a comparison is determined by, the same for every contestant."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from keelnet.experiments.scan_sets import EDITION

Space = tuple[int, int, int]

# Whole brains: what the largest needs at each resolution (mm), divisible by 8.
PATCHES: dict[int, Space] = {4: (48, 56, 48), 2: (96, 112, 96)}

# Those that may be 0, and shift below it.
FREE = ("test", "shift", "decay", "warmup", "perturbation", "deep_seeds", "lesion")


@dataclass(frozen=True)
class Settings:
    """One comparison.

    training, validation, test: cases of three seeds of the generator; test 0: validation cases are shown in place
    of them, for comparisons by which something is chosen. seconds: the budget of a run on ``clock``
    (wall: of the day, with ``threads`` threads; cpu: of the process, on one thread). search_seconds: of a run that
    a learning rate is tried by. rates: what is tried for everyone, rising by one factor; more steps of it while the
    best lies at an edge. deep_seeds: of ours at other depths, and of what was tried for it. batch: cubes a step, of
    side ``crop`` voxels, a share ``lesion`` of them around tumour; judged are whole brains. epoch: cubes between two
    looks at the first ``judged`` validation cases; looking costs nothing of the budget. scale, shift: logits =
    scale · network + shift, for all. perturbation: deviation of the noise that test cases are given, in deviations of
    the brain. side: of the cubes that memory is measured on.
    """

    resolution: int = 4
    training: int = 600
    validation: int = 40
    test: int = 60
    judged: int = 12
    seconds: float = 1200.0
    search_seconds: float = 80.0
    rates: tuple[float, ...] = (4e-3, 1.6e-2)
    clock: Literal["wall", "cpu"] = "cpu"
    threads: int = 1
    seeds: int = 3
    deep_seeds: int = 1
    batch: int = 2
    crop: int = 32
    lesion: float = 0.5
    epoch: int = 400
    warmup: float = 0.05
    decay: float = 1e-4
    clip: float = 1.0
    scale: float = 3.0
    shift: float = -2.0
    perturbation: float = 0.3
    side: int = 96

    def __post_init__(self) -> None:
        if self.resolution not in PATCHES:
            raise ValueError(f"resolution must be 4 or 2 mm, got {self.resolution}")
        if self.clock not in ("wall", "cpu"):
            raise ValueError(f"clock must be wall or cpu, got {self.clock!r}")
        if self.clock == "cpu" and self.threads != 1:
            raise ValueError("seconds of the process are counted on one thread; set threads=1")
        if self.side % 8 or self.crop % 8:
            raise ValueError(
                f"side and crop must be divisible by 8, got {self.side} and {self.crop}"
            )
        if not 0 <= self.lesion <= 1:
            raise ValueError(f"lesion must lie between 0 and 1, got {self.lesion}")
        if not self.rates or list(self.rates) != sorted(set(self.rates)) or self.rates[0] <= 0:
            raise ValueError(f"rates must rise and be above 0, got {self.rates}")
        for name, value in asdict(self).items():
            if name not in (*FREE, "clock", "rates") and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {value}")
            if name in FREE and not (math.isfinite(value) and (name == "shift" or value >= 0)):
                raise ValueError(f"{name} must be at least 0, got {value}")

    @property
    def patch(self) -> Space:
        """What a whole brain is judged on."""
        return PATCHES[self.resolution]

    @property
    def cube(self) -> Space:
        """What is trained on."""
        return (self.crop, self.crop, self.crop)

    @classmethod
    def of(cls, values: Mapping[str, Any], path: Path) -> Settings:
        """As JSON has them, in ``path``. Raises ValueError where there are others."""
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"{path} is of another version of the comparison; use another --out")
        return cls(**{**values, "rates": tuple(values["rates"])})

    @classmethod
    def read(cls, path: Path) -> Settings:
        """What `write` wrote. Raises ValueError where runs are, or may be, on other cases than the generator now makes."""
        values: dict[str, Any] = json.loads(path.read_text())
        edition = values.pop("edition", None)
        if edition is None and any((path.parent / "runs").glob("*.json")):
            raise ValueError(
                f'{path.parent} does not say of which edition its cases are; add "edition" to its {path.name}, or use'
                " another --out"
            )
        if edition not in (None, EDITION):
            raise ValueError(
                f"{path.parent} holds runs on cases of edition {edition} of the generator, which now makes"
                f" edition {EDITION}; use another --out"
            )
        return cls.of(values, path)

    def write(self, path: Path) -> None:
        """With the generator's edition; whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self) | {"edition": EDITION}, indent=1) + "\n")
        temporary.replace(path)

    def changed(self, words: Sequence[str]) -> Settings:
        """With ``key=value`` put in place; rates are separated by commas."""
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        values: dict[str, Any] = {}
        for word in words:
            name, _, text = word.partition("=")
            if name not in kinds or not text:
                raise ValueError(f"settings are key=value with {', '.join(kinds)}; got {word!r}")
            try:
                values[name] = _read(kinds[name], text)
            except ValueError:
                raise ValueError(f"{name} takes {kinds[name].__name__}, got {text!r}") from None
        return replace(self, **values)

    def comparable(self, other: Settings) -> bool:
        """Whether runs of both stand in one table, whatever their seeds."""
        return replace(self, seeds=1, deep_seeds=1) == replace(other, seeds=1, deep_seeds=1)


def _read(kind: type, text: str) -> Any:
    return tuple(float(part) for part in text.split(",")) if kind is tuple else kind(text)
