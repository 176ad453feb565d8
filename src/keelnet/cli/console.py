"""The two streams that commands write to: what was found, and what went wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.text import Text


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
    _print_line("keelnet:", "bold red", message)
    return code


def say(text: str) -> None:
    """A line as it is: names of folders may hold what is markup to rich."""
    console.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """A line on the error stream: what goes to a file or a pipe is the result alone."""
    errors.print(Text(text, "dim"))


def _print_line(head: str, style: str, message: str) -> None:
    """A message of others is no markup, whatever brackets and backslashes it has."""
    errors.print(Text.assemble((head, style), " ", " ".join(message.split())))


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
        _print_line("keelnet: warning:", "bold yellow", str(message))
