"""Cells: tables in Markdown, and whom a row is of."""

from __future__ import annotations

from collections.abc import Sequence

from scores import Score


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: bool = True) -> list[str]:
    """Markdown; all but the first column to the right, where they are numbers."""
    rule = ["---", *["---:" if right else "---"] * (len(header) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]


def title_of(score: Score) -> str:
    return f"**{score.title}**" if score.contestant.role == "ours" else score.title
