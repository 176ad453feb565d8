"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer
from rich.console import Console

from keelnet import __version__

if TYPE_CHECKING:
    from keelnet.experiments.recipes import Recipe
    from keelnet.experiments.reproduce import Reproduction
    from keelnet.learning import Progress

app = typer.Typer(
    name="keelnet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Console(Console):
    """A console that goes on without a reader: a closed pipe must not stop a training."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


console = _Console(highlight=False, emoji=False)
errors = _Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the results of an earlier run in that folder.")
]


def main() -> NoReturn:
    """Run the command line. Bad use and bad input: one line and exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    warnings.showwarning = _show_warning
    # By default OpenMP threads spin at barriers for milliseconds: beside one other busy program a
    # training step took up to 40 times as long. A short spin costs nothing on a quiet machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no γ shows its number
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_guarded(arguments or ["--help"], debug))


def _guarded(arguments: list[str], debug: bool) -> int:
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
            return _fail(error.format_message(), 2)
        if isinstance(error, (ValueError, OSError)):
            return _fail(str(error), 2)
        return _fail(f"internal error, {type(error).__name__}: {error}; see it with --debug", 1)


def _stopped() -> int:
    return _fail(
        "stopped; a new folder keeps its best weights, an overwritten one its old files", 130
    )


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    errors.print(f"[bold red]keelnet:[/] {_plain(line)}")
    return code


def _say(text: str) -> None:
    """A line as it is: names of folders may hold what is markup to rich."""
    console.print(text, markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Brackets are markup to rich."""
    return text.replace("[", r"\[")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings as one line each; those of other libraries are not for the user."""
    if category.__module__.startswith("keelnet"):
        errors.print(f"[bold yellow]keelnet: warning:[/] {_plain(' '.join(str(message).split()))}")


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


@app.command(epilog="Example: keelnet reproduce --out runs/reproduce")
def reproduce(out: Out = None, overwrite: Overwrite = False) -> None:
    """Compute the source paper's experiments: figures (PNG, SVG), numbers and a verdict on each claim."""
    from keelnet.experiments.reproduce import reproduce as compute

    folder = out or Path("runs/reproduce")
    _print_verdicts(compute(folder, overwrite))
    _say(f"written to {folder}")


@app.command(epilog="Example: keelnet train digits --set depth=40 --epochs 10 --out runs/deep")
def train(
    recipe: Annotated[str, typer.Argument(help="digits or tissue.", metavar="RECIPE")],
    out: Out = None,
    overwrite: Overwrite = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time instead.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the recipe: key=value, repeatable."),
    ] = None,
) -> None:
    """Train by a recipe and leave a run folder: recipe, history, weights, scores, pictures."""
    from keelnet.experiments.recipes import recipe_named
    from keelnet.experiments.runs import train as run

    chosen = _budgeted(recipe_named(recipe), epochs, minutes).with_settings(settings or [])
    folder = out or Path("runs") / chosen.name
    _follow(chosen, run(chosen, folder, overwrite))
    _print_scores(folder)
    _say(f"written to {folder}")


@app.command(epilog="Example: keelnet demo --out runs/demo --overwrite")
def demo(out: Out = None, overwrite: Overwrite = False) -> None:
    """Reproduce the experiments, train digits and tissue, and write one report (report.html)."""
    from keelnet.experiments.folders import OutputFolder
    from keelnet.experiments.recipes import recipe_named
    from keelnet.experiments.report import report
    from keelnet.experiments.reproduce import reproduce as compute
    from keelnet.experiments.runs import train as run

    target = out or Path("runs/demo")
    with OutputFolder.claim(target, overwrite) as folder:
        console.rule("the source's experiments")
        _print_verdicts(compute(folder.root / "reproduce"))
        for name in ("digits", "tissue"):
            console.rule(f"recipe {name}")
            _follow(recipe_named(name), run(recipe_named(name), folder.root / name))
            _print_scores(folder.root / name)
        console.rule("report")
        folder.write_text("report.html", report(folder.root, target))
    _say(f"open {target / 'report.html'} in a browser; it needs no network")


def _budgeted(recipe: Recipe, epochs: int | None, minutes: float | None) -> Recipe:
    from dataclasses import replace

    if epochs is not None and minutes is not None:
        raise ValueError("choose --epochs or --minutes, not both")
    if minutes is not None:
        return replace(recipe, epochs=None, minutes=minutes)
    return recipe if epochs is None else replace(recipe, epochs=epochs, minutes=None)


def _print_verdicts(reproduction: Reproduction) -> None:
    for verdict in reproduction.verdicts:
        mark = "[green]✓[/]" if verdict.holds else "[red]✗[/]"
        number = f"{verdict.number:.4g} {verdict.relation} {verdict.threshold:g}"
        reading = f" ({verdict.reading})" if verdict.reading else ""
        claim = _plain(f"{verdict.source}: {verdict.claim}{reading}")
        console.print(f"{mark} {claim} [bold]{number}[/]")
        console.print(f"    [dim]{_plain(verdict.measure)} ({verdict.experiment})[/]")
    held = sum(verdict.holds for verdict in reproduction.verdicts)
    console.print(f"{held} of {len(reproduction.verdicts)} statements hold")


def _follow(recipe: Recipe, steps: Iterator[Progress]) -> None:
    """A progress bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        return _follow_in_lines(recipe, steps)
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        line = bar.add_task(f"{recipe.name}: first epoch", total=1.0)
        for progress in steps:
            bar.update(line, completed=progress.spent, description=_state(recipe, progress))


def _follow_in_lines(recipe: Recipe, steps: Iterator[Progress]) -> None:
    shown = 0.0
    for progress in steps:
        if progress.spent >= shown:
            _say(f"{_state(recipe, progress)}  {progress.seconds:.0f} s")
            shown = progress.spent + 0.1


def _state(recipe: Recipe, progress: Progress) -> str:
    goal, value = next(iter(progress.scores.items()))
    total = sum(progress.terms.values())
    return (
        f"{recipe.name}: epoch {progress.epoch}, objective {total:.4f},"
        f" validation {goal.replace('_', ' ')} {value:.4f}"
    )


def _print_scores(folder: Path) -> None:
    import json

    scores = json.loads((folder / "scores.json").read_text())
    for name, value in scores.items():
        shown = {k: round(v, 4) for k, v in value.items()} if isinstance(value, dict) else value
        if "accuracy" in name or "dice" in name:
            text = f"{shown:.4f}" if isinstance(shown, float) else str(shown)
            _say(f"  {name.replace('_', ' ')}: {text}")
