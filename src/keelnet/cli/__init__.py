"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import warnings
from typing import Annotated, NoReturn

import typer

from keelnet import __version__
from keelnet.cli import assessing, data, exploring, planning, segmentation, tables, training
from keelnet.cli.console import console, fail, show_warning, speaks_first

app = typer.Typer(
    name="keelnet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUPS = (training, tables, planning, segmentation, exploring, assessing)
for command, example in (entry for group in GROUPS for entry in group.COMMANDS):
    app.command(epilog=f"Example: {example}")(command)
app.add_typer(data.app, name="data")


def main() -> NoReturn:
    """Run the command line. Bad use and bad input: one line and exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    warnings.showwarning = show_warning
    # By default OpenMP threads spin at barriers for milliseconds: beside one other busy program a
    # training step took up to 40 times as long. A short spin costs nothing on a quiet machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no γ shows its number
            stream.reconfigure(errors="backslashreplace")
    sys.exit(invoke(arguments or ["--help"], debug))


def invoke(arguments: list[str], debug: bool = False) -> int:
    """The exit code of a command in this process; an error is one line, after its traceback where ``debug`` asks for it."""
    # As a path it would be the folder that one stands in.
    if any(not each or re.fullmatch("--[a-z-]+=", each) for each in arguments):
        return fail(
            "an argument is empty: give it, or leave it out (a variable that is not set?)", 2
        )
    try:
        code = app(arguments, prog_name="keelnet", standalone_mode=False)
        return _stopped() if code == 130 else (code if isinstance(code, int) else 0)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _stopped()
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, typer.TyperException):
            return fail(error.format_message(), 2) if speaks_first() else 2
        from keelnet.experiments.resident import says_no_memory

        if says_no_memory(error):
            reason = (str(error).splitlines() or ["no more was given"])[0]
            return fail(f"not enough memory: {reason}; keelnet plan says what a recipe takes", 2)
        if isinstance(error, (ValueError, OSError)):
            return fail(str(error), 2)
        return fail(f"internal error, {type(error).__name__}: {error}; see it with --debug", 1)


def _stopped() -> int:
    return fail(
        "stopped; a training in a new folder can be gone on with (train --resume), an overwritten one keeps its old"
        " files",
        130,
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"keelnet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Fast and stable deep residual networks, seen as time integration."""
