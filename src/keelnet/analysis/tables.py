"""Tables: columns of text, drawn for a terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Literal

WIDTH = 120
TEXT = ("block", "method", "verdict")  # columns that are read, not compared


def table(title: str, columns: Mapping[str, Sequence[str]]) -> str:
    """Cells by heading; a column of empty ones is left out."""
    from rich.console import Console  # 3 MB, which a report that is not printed does not need
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(title=title, title_justify="left")
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    for heading in shown:
        justify: Literal["left", "right"] = "left" if heading in TEXT else "right"
        drawn.add_column(heading, justify=justify, no_wrap=heading == "block")
    for row in zip(*shown.values(), strict=True):
        drawn.add_row(*map(escape, row))
    file = io.StringIO()
    Console(file=file, width=WIDTH).print(drawn)
    return file.getvalue()


def figure(value: float | None) -> str:
    """Four digits; nothing for what there is not, a question mark for what was not found."""
    if value is not None and math.isnan(value):
        return "?"
    return "" if value is None else f"{value + 0.0:.4g}"
