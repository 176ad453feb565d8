"""The two streams that commands write to: what was found, and what went wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console


class Quiet(Console):
    """A console that goes on without a reader: a closed pipe must not stop a training."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


console = Quiet(highlight=False, emoji=False)
errors = Quiet(stderr=True, highlight=False, emoji=False, soft_wrap=True)

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the results of an earlier run in that folder.")
]


def fail(message: str, code: int) -> int:
    """One line on the error stream; the exit code."""
    line = " ".join(message.split())
    errors.print(f"[bold red]keelnet:[/] {plain(line)}")
    return code


def say(text: str) -> None:
    """A line as it is: names of folders may hold what is markup to rich."""
    console.print(text, markup=False, soft_wrap=True)


def plain(text: str) -> str:
    """Brackets are markup to rich."""
    return text.replace("[", r"\[")


def speaks_first() -> bool:
    """Whether this is the first of the processes that torchrun has started on this machine, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings as one line each; those of other libraries are not for the user."""
    if category.__module__.startswith("keelnet") and speaks_first():
        errors.print(f"[bold yellow]keelnet: warning:[/] {plain(' '.join(str(message).split()))}")
