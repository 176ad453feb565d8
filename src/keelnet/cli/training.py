"""Commands that compute runs: reproduce, train, demo."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelnet.cli.console import Out, Overwrite, console, say, speaks_first
from keelnet.cli.options import require_once

if TYPE_CHECKING:
    from keelnet.experiments.recipes import Recipe
    from keelnet.experiments.reproduce import Reproduction
    from keelnet.learning import Progress


def reproduce(out: Out = None, overwrite: Overwrite = False) -> None:
    """Compute the source paper's experiments: figures (PNG, SVG), numbers and a verdict on each claim."""
    from keelnet.experiments.reproduce import reproduce as compute

    folder = out or Path("runs/reproduce")
    _print_verdicts(compute(folder, overwrite))
    say(f"written to {folder}")


def train(
    recipe: Annotated[str, typer.Argument(help="digits, swiss_roll, tumour, …", metavar="RECIPE")],
    out: Out = None,
    overwrite: Overwrite = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time instead.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in that folder.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your scans, for tumour: a folder or a CSV of paths (default: synthetic); or image files."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="What their labels mean: brats2021, brats2023, brats2024, peds2024 or msd."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without the cases that cannot be read.")
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Refuse what does not fit in this, and stay within it: 4GB, 800MB; for each process."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the recipe: key=value, repeatable."),
    ] = None,
) -> None:
    """Train by a recipe and leave a run folder: recipe, history, weights, scores, pictures."""
    from keelnet.experiments.recipes import recipe_named
    from keelnet.experiments.runs import train as run

    with _one_voice():
        options = {
            "epochs": epochs,
            "minutes": minutes,
            "folder": data,
            "labels": labels,
            "skip_bad": skip_bad or None,
        }
        require_once(settings or [], [key for key in options if options[key] is not None])
        chosen = _budgeted(recipe_named(recipe), epochs, minutes).with_settings(settings or [])
        chosen = _on_scans(chosen, data, labels, skip_bad)
        folder = out or Path("runs") / chosen.name
        steps = run(chosen, folder, overwrite, resume, report=say)
        if memory is not None:
            steps = _within(memory, chosen, steps)
        if int(os.environ.get("RANK", "0")) > 0:  # one of several processes speaks
            return deque(steps, maxlen=0).clear()
        _follow(chosen, steps)
        _print_scores(folder)
        say(f"written to {folder}")


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
    say(f"open {target / 'report.html'} in a browser; it needs no network")


@contextmanager
def _one_voice() -> Iterator[None]:
    """What stops all of several processes is said once on a machine, what stops one, by that one."""
    from keelnet.learning.processes import speaks_for

    try:
        yield
    except (ValueError, OSError) as error:
        if speaks_for(error):
            raise
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if speaks_first():
            raise
        raise typer.Exit(130) from None


def _budgeted(recipe: Recipe, epochs: int | None, minutes: float | None) -> Recipe:
    from dataclasses import replace

    if epochs is not None and minutes is not None:
        raise ValueError("choose --epochs or --minutes, not both")
    if minutes is not None:
        return replace(recipe, epochs=None, minutes=minutes)
    return recipe if epochs is None else replace(recipe, epochs=epochs, minutes=None)


def _on_scans(recipe: Recipe, data: Path | None, labels: str | None, skip_bad: bool) -> Recipe:
    from dataclasses import replace

    changes: dict[str, Any] = {}
    if data is not None:
        if not data.exists():
            raise ValueError(f"{data} does not exist")
        # Links are not followed: the cells of a table are relative to where it is linked, as `data check` reads it.
        changes["folder"] = str(data.absolute())
    if labels is not None:
        changes["labels"] = labels
    if skip_bad:
        changes["skip_bad"] = True
    return replace(recipe, **changes)


def _within(memory: str, recipe: Recipe, steps: Iterator[Progress]) -> Iterator[Progress]:
    """The steps in this much memory, which is planned for before the first."""
    from keelnet.experiments.ledger import bytes_in
    from keelnet.experiments.limits import limited

    return limited(recipe, bytes_in(memory), steps, say)


def _print_verdicts(reproduction: Reproduction) -> None:
    from rich.text import Text

    for verdict in reproduction.verdicts:
        mark = ("✓ ", "green") if verdict.holds else ("✗ ", "red")
        number = f"{verdict.number:.4g} {verdict.relation} {verdict.threshold:g}"
        reading = f" ({verdict.reading})" if verdict.reading else ""
        claim = f"{verdict.source}: {verdict.claim}{reading} "
        console.print(Text.assemble(mark, claim, (number, "bold")))
        console.print(Text(f"    {verdict.measure} ({verdict.experiment})", "dim"))
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
            left = progress.seconds * (1 - progress.spent) / max(progress.spent, 1e-9)
            say(f"{_state(recipe, progress)}  {progress.seconds:.0f} s, {left:.0f} s left")
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

    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    for name, value in scores.items():
        if "accuracy" in name or "dice" in name:
            shown = {k: round(v, 4) for k, v in value.items()} if isinstance(value, dict) else value
            text = f"{shown:.4f}" if isinstance(shown, float) else str(shown)
            say(f"  {name.replace('_', ' ')}: {text}")


COMMANDS = (
    (reproduce, "keelnet reproduce --out runs/reproduce"),
    (train, "keelnet train digits --set depth=40 --epochs 10 --out runs/deep"),
    (demo, "keelnet demo --out runs/demo --overwrite"),
)
