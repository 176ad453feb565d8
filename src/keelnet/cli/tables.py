"""The command that compares: recipes by architectures by seeds, computed or collected, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelnet.cli.console import Out, say
from keelnet.cli.options import require_once

if TYPE_CHECKING:
    from keelnet.experiments.folders import OutputFolder
    from keelnet.experiments.recipes import Recipe
    from keelnet.experiments.table import Outcome


def table(
    recipes: Annotated[
        list[str] | None, typer.Argument(help="Recipes that classify.", metavar="RECIPE…")
    ] = None,
    out: Out = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace runs of other settings in that folder that have ended, and train anew what diverged.",
        ),
    ] = False,
    architectures: Annotated[
        str | None, typer.Option(help="Separated by commas. Default: all six.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many: 0, 1, … Default: 3.", min=1)] = None,
    sweep: Annotated[
        str | None, typer.Option(help="Vary a setting: depth=8,16,32, samples=100,200.")
    ] = None,
    fixed_step: Annotated[
        bool, typer.Option("--fixed-step", help="In a sweep of depth, T grows with the depth.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(help="For each run, instead of epochs.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder of image files, for recipes on them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of every recipe: key=value, repeatable."),
    ] = None,
    collect: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="Compute nothing: collect the runs in this folder, repeatable."
        ),
    ] = None,
) -> None:
    """Compare architectures: mean and spread over seeds in table.md and table.json; goes on where it was cut off."""
    from keelnet.experiments.folders import OutputFolder
    from keelnet.experiments.table import Design, Sweep, collected, fill

    folder = out or Path("runs/table")
    if collect:
        ways = (settings, sweep, architectures, seeds, minutes, data, fixed_step or None)
        if recipes or any(way is not None for way in ways):
            raise ValueError("choose recipes to compute or runs to collect (--from), not both")
        _collect(folder, collect, overwrite)
        return
    _require_own(settings or [])
    named = architectures.split(",") if architectures else Design.architectures
    swept = None if sweep is None else Sweep.read(sweep, fixed_step)
    if fixed_step and swept is None:
        raise ValueError("--fixed-step needs --sweep depth=…")
    given = [key for key, value in (("minutes", minutes), ("folder", data)) if value is not None]
    # A fixed step is taken from the depth that is set.
    require_once(settings or [], given, None if swept is None or fixed_step else swept.key)
    chosen = _chosen(recipes or [], minutes, data, settings or [])
    design = Design(chosen, tuple(name.strip() for name in named), seeds or 3, swept)
    for outcome in fill(folder, design, overwrite, say):
        say(f"  {_described(outcome)}")
        _write(OutputFolder(folder, staged=False, existed=True))
    _say_savings(collected([folder]))
    say(f"written to {folder}: table.md, table.json, pictures, and every run")


def _require_own(settings: list[str]) -> None:
    """A table varies some settings itself."""
    from keelnet.experiments.settings import assignments
    from keelnet.experiments.table import OWN

    for key in assignments(settings).keys() & OWN.keys():
        raise ValueError(f"a table varies {key} itself: choose with {OWN[key]}, not with --set")


def _chosen(
    names: list[str], minutes: float | None, data: Path | None, settings: list[str]
) -> tuple[Recipe, ...]:
    """The recipes with what was asked of all of them."""
    from dataclasses import replace

    from keelnet.experiments.recipes import recipe_named

    if data is not None and not data.exists():
        raise ValueError(f"{data} does not exist")
    changes: dict[str, Any] = {} if minutes is None else {"epochs": None, "minutes": minutes}
    if data is not None:
        changes["folder"] = str(data.absolute())
    return tuple(replace(recipe_named(name), **changes).with_settings(settings) for name in names)


def _collect(folder: Path, places: list[Path], overwrite: bool) -> None:
    from keelnet.experiments.folders import OutputFolder
    from keelnet.experiments.table import collected

    outcomes = collected(places, say)
    with OutputFolder.claim(folder, overwrite) as claimed:
        _write(claimed, outcomes)
    _say_savings(outcomes)
    say(f"{len(outcomes)} runs collected in {folder}: table.md, table.json, pictures")


def _write(folder: OutputFolder, outcomes: list[Outcome] | None = None) -> None:
    """The table of these runs, or of all that lie in its folder."""
    from keelnet.experiments.comparison import as_json, as_markdown, grouped
    from keelnet.experiments.races import races
    from keelnet.experiments.sweep_pictures import sweeps
    from keelnet.experiments.table import SIGN, collected

    groups = grouped(collected([folder.path]) if outcomes is None else outcomes)
    texts, drawn = races(groups)
    pictures = sweeps([group for group in groups if group.recipe not in texts])
    for name, content in (pictures | drawn).items():
        folder.write_bytes(name, content)
    folder.write_text("table.md", as_markdown(groups, folder.path, list(pictures), texts))
    folder.write_text(SIGN, as_json(groups, folder.path))


def _say_savings(outcomes: list[Outcome]) -> None:
    """What another way of training saved, where runs differ in that."""
    from keelnet.experiments.comparison import grouped
    from keelnet.experiments.races import savings

    for line in savings(grouped(outcomes)):
        say(f"  {line}")


def _described(outcome: Outcome) -> str:
    if outcome.scores is None:
        return f"diverged: {outcome.failure}"
    accuracy, seconds = outcome.scores["validation_accuracy"], outcome.scores["seconds"]
    return f"validation accuracy {accuracy:.4f}, {seconds:.0f} s"


COMMANDS = ((table, "keelnet table swiss_roll peaks --seeds 3 --out runs/table"),)
