"""The stability laboratory: experiments by name, each a frozen recipe that leaves numbers and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_type_hints

from keelnet.experiments.dampings import DampingSweep
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.gradient_maps import GradientMaps
from keelnet.experiments.growth import GrowthAgainstDepth
from keelnet.experiments.provenance import versions
from keelnet.experiments.settings import assignments, read
from keelnet.experiments.starts import StartOfTheGrid


class Experiment(Protocol):
    """A frozen dataclass: everything that determines the numbers."""

    name: ClassVar[str]

    def run(self) -> dict[str, Any]:
        """Plain values."""

    def pictures(self, found: Mapping[str, Any]) -> dict[str, bytes]:
        """PNG by file name."""


EXPERIMENTS: dict[str, Any] = {
    kind.name: kind for kind in (GrowthAgainstDepth, DampingSweep, StartOfTheGrid, GradientMaps)
}


def experiment_named(name: str, settings: Sequence[str] = ()) -> Experiment:
    """The experiment of that name with ``key=value`` settings; raises ValueError for those that are unknown or cannot work."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; known are {', '.join(EXPERIMENTS)}")
    kind = EXPERIMENTS[name]
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    changes = assignments(settings)
    for key in changes:
        if key not in known:
            raise ValueError(f"unknown setting {key!r} of {name}; known are {', '.join(known)}")
    values = {key: read(key, text, hints[key]) for key, text in changes.items()}
    for key, value in values.items():
        _require_positive(key, value)
    made: Experiment = replace(kind(), **values)
    return made


def _require_positive(key: str, value: Any) -> None:
    if key == "seed":
        if not 0 <= value < 2**63:
            raise ValueError(f"seed must be at least 0 and below 2^63, got {value}")
    elif not all(0 < part < inf for part in (value if isinstance(value, tuple) else (value,))):
        raise ValueError(f"{key} must be a finite number above 0, got {value!r}")


def perform(experiment: Experiment, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Run an experiment and leave NAME.json and its pictures in ``out``, all of them or none.

    Raises ValueError for a folder that cannot be had, and where a number is not finite.
    """
    with OutputFolder.claim(out, overwrite, whole=True) as folder:
        found = experiment.run()
        for name, content in experiment.pictures(found).items():
            folder.write_bytes(name, content)
        folder.write_text(f"{experiment.name}.json", _as_json(experiment.name, found))
    return found


def _as_json(name: str, found: Mapping[str, Any]) -> str:
    try:
        return (
            json.dumps({**found, "versions": versions()}, ensure_ascii=False, allow_nan=False)
            + "\n"
        )
    except ValueError:
        raise ValueError(
            f"{name} found numbers that are not finite; change its settings (--set)"
        ) from None
