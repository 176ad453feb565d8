"""The command that says how stable a network is: stability."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelnet.cli.console import Out, Overwrite, say

if TYPE_CHECKING:
    from keelnet.experiments.assessments import Assessment

SINGLE = 6  # layers of each block that are looked at one by one for the pictures


def stability(
    run: Annotated[
        Path | None, typer.Argument(help="The folder of a finished run.", metavar="RUN")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Instead: the network of a recipe, before training.")
    ] = None,
    experiment: Annotated[
        str | None,
        typer.Option(help="Instead: an experiment: growth, damping, start or gradients."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the recipe or experiment: key=value."),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            help=f"How many layers of each block to look at one by one. Default: 0, with --out {SINGLE}.",
            min=0,
        ),
    ] = None,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Say of each block how much a perturbation grows, its step bound, a verdict and what would hold it; --out for JSON and pictures."""
    chosen = [name for name in (run, recipe, experiment) if name is not None]
    if len(chosen) != 1:
        raise ValueError("choose one: the folder of a run, --recipe NAME or --experiment NAME")
    if settings and run is not None:
        raise ValueError("--set changes a recipe or an experiment; a run was trained as it is")
    if experiment is not None:
        _experiment(experiment, settings or [], layers, out, overwrite)
        return
    if out is not None:
        _require_free(out, overwrite)
    single = layers if layers is not None else (SINGLE if out else 0)
    assessment = _assessed(run, recipe, settings or [], single or None)
    say(assessment.subject)
    say(str(assessment.report).rstrip())
    for line in assessment.advice():
        say(line)
    if out is not None:
        from keelnet.experiments.assessments import write

        say(f"written to {out}: {', '.join(write(assessment, out, overwrite))}")


def _assessed(
    run: Path | None, recipe: str | None, settings: list[str], layers: int | None
) -> Assessment:
    from keelnet.experiments.assessments import assess_recipe, assess_run
    from keelnet.experiments.recipes import recipe_named

    if run is not None:
        return assess_run(run, layers)
    assert recipe is not None
    return assess_recipe(recipe_named(recipe).with_settings(settings), layers)


def _experiment(
    name: str, settings: list[str], layers: int | None, out: Path | None, overwrite: bool
) -> None:
    from keelnet.experiments.laboratory import experiment_named, perform

    if layers is not None:
        raise ValueError(
            "--layers is for a run or a recipe; an experiment has its settings (--set)"
        )
    folder = out or Path("runs/stability") / name
    perform(experiment_named(name, settings), folder, overwrite)
    say(f"written to {folder}: {name}.json, {name}.png")


def _require_free(out: Path, overwrite: bool) -> None:
    """Before the work, not after it."""
    from keelnet.experiments.folders import OutputFolder

    OutputFolder.claim(out, overwrite, whole=True)


COMMANDS = (
    (stability, "keelnet stability --recipe digits --set depth=10 --out runs/stability/digits"),
)
