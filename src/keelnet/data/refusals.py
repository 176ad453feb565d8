"""Refusals: what is no case, by place and name, with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

Key = tuple[Path, str]  # folder, and the name before the last word


@dataclass
class Refusals:
    """Reasons by place and name: a case may bear the name of one that is refused elsewhere."""

    reasons: dict[Key, str] = field(default_factory=dict)

    def add(self, name: str, place: Path, reason: str) -> None:
        self.reasons[place, name] = reason

    def named(self, taken: set[str]) -> dict[str, str]:
        """Reasons by name, with the place where another has the same."""
        count = Counter([*taken, *(name for _, name in self.reasons)])
        return {
            name if count[name] == 1 else f"{name} ({place})": reason
            for (place, name), reason in self.reasons.items()
        }
