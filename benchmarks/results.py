"""Result: what one contender did on one cell."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from cases import Case
from plan import Cell, Contender


@dataclass
class Result:
    """Seconds of the counted rounds, or the reason why there are none."""

    case: Case
    pass_: str
    part: str
    peer: str
    method: str
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)  # the first call of each turn
    refused: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    saved_bytes: int | None = None
    saved_how: str = ""
    peak_bytes: int | None = None
    same_mathematics: bool = True

    @classmethod
    def of(cls, cell: Cell, contender: Contender) -> Result:
        """Nothing measured yet."""
        return cls(
            cell.case,
            cell.pass_,
            cell.part,
            contender.peer,
            contender.method,
            contender.note,
            same_mathematics=contender.same_mathematics,
        )

    @property
    def name(self) -> str:
        return f"{self.peer} {self.method}"

    @property
    def is_ours(self) -> bool:
        return self.peer == "keelnet"

    @property
    def is_floor(self) -> bool:
        return self.peer == "floor"

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def first(self) -> float | None:
        return statistics.median(self.firsts) if self.firsts else None

    def annotate(self, note: str) -> None:
        """One more remark, unless it stands there already."""
        if note and note not in self.note:
            self.note = f"{self.note}; {note}" if self.note else note

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"median": self.median, "first": self.first}
