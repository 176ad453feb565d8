"""Failures: what a table keeps of the trainings that diverged, in a file of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from keelnet.experiments.recipes import Recipe

FAILURES = "failures.json"


@dataclass(frozen=True)
class Failure:
    """A training that diverged: its recipe, and what it said."""

    recipe: Recipe
    reason: str


def failures_in(folder: Path) -> dict[str, Failure]:
    """Those of the table in a folder, by cell; raises ValueError, with the file's name, for one that cannot be read."""
    path = folder / FAILURES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Failure(Recipe.from_toml(known["recipe"]), str(known["failure"]))
            for name, known in content.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}; move it away") from None
    except (AttributeError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not of a table: a recipe and a failure a cell were wanted; move it away"
        ) from None


def failures_as_json(failures: Mapping[str, Failure]) -> str:
    """What `failures_in` reads."""
    content = {
        name: {"failure": each.reason, "recipe": tomli_w.dumps(each.recipe.as_table())}
        for name, each in failures.items()
    }
    return json.dumps(content, indent=2) + "\n"
