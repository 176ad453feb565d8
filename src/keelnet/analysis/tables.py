"""Tables: columns of text, drawn for a terminal, and plain values for JSON."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import numpy as np

WIDTH = 120
SHOWN = 5  # names in a sentence
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


def factor(value: float) -> str:
    """Four digits, with zeros at their end: 1.500 is not 1.5003."""
    return figure(value) if not 1e-3 <= abs(value) < 1e3 else f"{value:#.4g}"


def wrapped(line: str) -> str:
    """A sentence as wide as a table, with its line end."""
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) + "\n"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are beside them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def plain(value: Any) -> Any:
    """As JSON can hold it: what is not finite is None, a complex number [real, imaginary]."""
    if is_dataclass(value):
        names = [each.name for each in fields(value) if each.name != "integrator"]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, np.ndarray):
        if np.iscomplexobj(value):
            return plain([[float(each.real), float(each.imag)] for each in value])
        # Looked through at once: there may be millions of numbers.
        return value.tolist() if np.isfinite(value).all() else plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
