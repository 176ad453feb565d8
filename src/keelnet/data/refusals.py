"""Refusals: what is no case, by place and name, with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from keelnet.data.case import Case

Key = tuple[str, str]  # place, and the name that is refused


@dataclass
class Refusals:
    """Reasons by place and name: a case may bear the name of one that is refused elsewhere.

    scans: of those that are refused for their labels alone, the case without them.
    """

    reasons: dict[Key, str] = field(default_factory=dict)
    scans: dict[Key, Case] = field(default_factory=dict)

    def add(self, name: str, place: Path | str, reason: str, scans: Case | None = None) -> None:
        """``place``: a folder, or the line of a table."""
        key = str(place), name
        self.reasons[key] = reason
        if scans is not None:
            self.scans[key] = scans

    def shown(self, taken: set[str]) -> dict[Key, str]:
        """The name that each is shown by, with the place where another has the same."""
        count = Counter([*taken, *(name for _, name in self.reasons)])
        return {
            (place, name): name if count[name] == 1 else f"{name} ({place})"
            for place, name in self.reasons
        }
