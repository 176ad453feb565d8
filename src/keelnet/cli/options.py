"""Options that stand for a setting: what is asked for twice is refused, as one of the two would be ignored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

OPTIONS = {
    "epochs": "--epochs",
    "minutes": "--minutes",
    "folder": "--data",
    "labels": "--labels",
    "skip_bad": "--skip-bad",
}


def require_once(settings: Sequence[str], given: Iterable[str], sweep: str | None = None) -> None:
    """Raises ValueError where a setting has two values: by ``key=value``, its own option, or a sweep of it."""
    from keelnet.experiments.settings import assignments

    ways = [(key, f"--set {key}") for key in assignments(settings)]
    ways += [(key, OPTIONS[key]) for key in given]
    ways += [] if sweep is None else [(sweep, "--sweep")]
    known: dict[str, str] = {}
    for key, way in ways:
        if known.setdefault(key, way) != way:
            raise ValueError(f"{key} is given by {known[key]} and by {way}; choose one of them")
