"""The command that says what a run will take: plan."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelnet.cli.console import console, note, say

if TYPE_CHECKING:
    from keelnet.experiments.ledger import Ledger
    from keelnet.experiments.plan import Plan

MEANING = {
    "process": "interpreter, libraries, compiled code",
    "parameters": "weights of the network",
    "gradients": "one number a weight",
    "optimiser": "moments of the method",
    "weights_kept": "best iterate, average",
    "activations": "kept for the backward pass",
    "working": "comes and goes within a step",
    "data": "the batch, a case, processes that cut patches",
}


def plan(
    recipe: Annotated[str, typer.Argument(help="digits, tissue, tumour, …", metavar="RECIPE")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the recipe: key=value, repeatable."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Say what fits in this: 4GB, 3.5G, 800MB (GiB and MiB are 1024-based)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how much memory and time a recipe will take, before it trains, and what fits a given memory."""
    from keelnet.experiments.fits import advice, as_sentence
    from keelnet.experiments.ledger import bytes_in
    from keelnet.experiments.plan import plan as compute
    from keelnet.experiments.recipes import recipe_named

    given = None if memory is None else bytes_in(memory)
    chosen = recipe_named(recipe).with_settings(settings or [])
    planned = compute(chosen, note)
    if not as_json:
        _print(planned)  # before the search for what fits, which takes longer
    found = {} if given is None else advice(planned, given, note)
    if as_json:
        say(json.dumps(_as_table(planned, given, found)))
    elif given is not None:
        for key, best in found.items():
            _print_largest(key, best)
        say(as_sentence(planned, given, found))


def _print(planned: Plan) -> None:
    from rich.table import Table

    from keelnet.experiments.ledger import as_text

    ledger: Ledger = planned.ledger
    table = Table(title=f"recipe {planned.recipe.name}", title_justify="left")
    table.add_column("memory")
    table.add_column("predicted", justify="right")
    table.add_column("what it is", style="dim")
    for name, size in asdict(ledger).items():
        table.add_row(name.replace("_", " "), as_text(size), MEANING[name])
    table.add_section()
    table.add_row("growth", as_text(ledger.growth), "all but the process")
    table.add_row("peak", as_text(ledger.peak), "largest resident size", style="bold")
    console.print(table)
    say(f"{_seconds(planned.seconds)} a training step on a machine as busy as this one now")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def _print_largest(key: str, best: Plan | None) -> None:
    from keelnet.experiments.fits import setting_of
    from keelnet.experiments.ledger import as_text

    if best is None:
        say(f"largest {key}: none fits")
    else:
        value = setting_of(best.recipe, key)
        say(
            f"largest {key}: {value} ({as_text(best.ledger.peak)}, {_seconds(best.seconds)} a step)"
        )


def _as_table(planned: Plan, given: int | None, found: dict[str, Plan | None]) -> dict[str, Any]:
    table = planned.as_table()
    if given is not None:
        table |= {"memory_bytes": given, "fits": planned.fits(given)}
        table["largest"] = {
            key: None if best is None else {key: getattr(best.recipe, key)} | _numbers(best)
            for key, best in found.items()
        }
    return table


def _numbers(best: Plan) -> dict[str, Any]:
    return {"peak_bytes": best.ledger.peak, "seconds_a_step": best.seconds}


COMMANDS = ((plan, "keelnet plan tumour --set patch=96 --memory 4GB"),)
