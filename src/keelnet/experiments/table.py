"""Tables: the same runs for many recipes, architectures and seeds, kept run by run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keelnet.experiments.failures import FAILURES, Failure, failures_as_json, failures_in
from keelnet.experiments.folders import STAGING, OutputFolder, occupied
from keelnet.experiments.openings import STATE, interrupted
from keelnet.experiments.problems import TASKS, network_to_train, problem
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.runs import DivergenceError, load_run, recipe_in, train
from keelnet.experiments.tasks import Report
from keelnet.propagation.bounds import NonFiniteStateError

ARCHITECTURES = (
    "residual",
    "antisymmetric",
    "hamiltonian",
    "double_hamiltonian",
    "parabolic",
    "second_order",
)
SIGN = "table.json"  # what a folder of a table is known by
OWN = {"seed": "--seeds", "architecture": "--architectures"}  # what a table varies itself
AGAIN = ("threads", "device")  # what runs may differ in that repeat one another


@dataclass(frozen=True)
class Sweep:
    """A setting that a table varies. fixed_step: T grows with the depth, so that h = T / N stays."""

    key: str
    values: tuple[str, ...]
    fixed_step: bool = False

    def __post_init__(self) -> None:
        if self.key in OWN:
            raise ValueError(f"a table varies {self.key} itself: choose with {OWN[self.key]}")
        if self.key in AGAIN:
            raise ValueError(
                f"runs that differ in {self.key} alone are one row of a table: make a table of each"
            )
        if self.key == "folder":
            raise ValueError(
                "a table has one folder of data: make one of each, and collect these with --from"
            )

    @classmethod
    def read(cls, text: str, fixed_step: bool = False) -> Sweep:
        """From ``key=value,value,…``; raises ValueError for other text."""
        key, separator, values = text.partition("=")
        every = tuple(value.strip() for value in values.split(","))
        if not separator or not key.strip() or not all(every) or len(set(every)) < len(every):
            raise ValueError(f"a sweep is written key=value,value,… without repeats, got {text!r}")
        if fixed_step and key.strip() != "depth":
            raise ValueError(f"a fixed step is for a sweep of depth, got one of {key.strip()}")
        return cls(key.strip(), every, fixed_step)

    def of(self, recipe: Recipe) -> dict[str, Recipe]:
        """The recipe with each of the values, by the name of a folder."""
        return {f"{self.key}-{value}": self._with(recipe, value) for value in self.values}

    def _with(self, recipe: Recipe, value: str) -> Recipe:
        changed = recipe.with_settings([f"{self.key}={value}"])
        if not self.fixed_step:
            return changed
        if not isinstance(recipe.depth, int) or not isinstance(changed.depth, int):
            raise ValueError(
                f"a fixed step needs one depth, got {recipe.depth} and {changed.depth}"
            )
        return replace(changed, final_time=recipe.final_time * changed.depth / recipe.depth)


@dataclass(frozen=True)
class Cell:
    """One run of a table, and the folder below the table's own that keeps it."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Design:
    """What a table compares: each recipe with each architecture, seed and value of the sweep.

    Raises ValueError where there is nothing to compare and for recipes that have no accuracy.
    """

    recipes: tuple[Recipe, ...]
    architectures: tuple[str, ...] = ARCHITECTURES
    seeds: int = 3
    sweep: Sweep | None = None

    def __post_init__(self) -> None:
        if not self.recipes or not self.architectures or self.seeds < 1:
            raise ValueError("a table needs a recipe, an architecture and a seed at least")
        for recipe in self.recipes:
            if TASKS[recipe.data].goal != "accuracy":
                raise ValueError(
                    f"a table compares accuracies, and recipe {recipe.name} has none; choose one that"
                    " classifies"
                )
        for name in self.architectures:
            if name not in ARCHITECTURES:
                raise ValueError(
                    f"unknown architecture {name!r}; known are {', '.join(ARCHITECTURES)}"
                )

    @property
    def cells(self) -> list[Cell]:
        """All runs; those of one seed come together, so that a first row is soon complete."""
        return [
            Cell(
                f"{recipe.name}/{part}{architecture}/seed-{seed}",
                replace(varied, architecture=architecture, seed=seed),  # type: ignore[arg-type]
            )
            for recipe in self.recipes
            for seed in range(self.seeds)
            for part, varied in self._varied(recipe).items()
            for architecture in self.architectures
        ]

    def _varied(self, recipe: Recipe) -> dict[str, Recipe]:
        if self.sweep is None:
            return {"": recipe}
        return {f"{name}/": varied for name, varied in self.sweep.of(recipe).items()}


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its scores, or why there are none. folder: where it is kept."""

    recipe: Recipe
    folder: Path
    scores: dict[str, Any] | None
    failure: str | None = None


def fill(
    out: Path, design: Design, overwrite: bool = False, report: Report = lambda line: None
) -> Iterator[Outcome]:
    """The outcome of every cell, one by one; computed unless ``out`` has it from an earlier call.

    What was interrupted goes on. A training that diverges is an outcome, kept in failures.json.
    Everything that can be known beforehand to be wrong is refused before anything is written:
    raises ValueError for a folder of something else, and for runs of other settings in it unless
    ``overwrite``, which also trains anew what diverged.
    """
    cells = design.cells
    folder, failures = _opened(out), failures_in(out)
    for cell in cells:
        _require_replaceable(out / cell.name, cell.recipe, overwrite, failures.get(cell.name))
        network_to_train(cell.recipe)
    for cell in {(cell.recipe.name, cell.name.split("/")[1]): cell for cell in cells}.values():
        with suppress(NonFiniteStateError):  # an outcome, in its turn
            problem(cell.recipe, report)  # where the data are not here, or too few for a batch
    if not (out / SIGN).exists():
        folder.write_text(SIGN, "{}\n")
    for number, cell in enumerate(cells, 1):
        report(f"{number} of {len(cells)}: {cell.name}")
        yield _outcome(folder, cell, overwrite, report)


def _opened(out: Path) -> OutputFolder:
    """The table's folder, a new one or one of an earlier table: its runs are guarded one by one."""
    if (out / SIGN).is_file():
        return OutputFolder(out, staged=False, existed=True)
    if occupied(out):
        raise ValueError(
            f"output folder {out} is not empty and holds no table, so nothing in it is replaced; choose"
            " another with --out"
        )
    return OutputFolder.claim(out, overwrite=False)


def _require_replaceable(
    path: Path, recipe: Recipe, overwrite: bool, diverged: Failure | None
) -> None:
    """A run of these settings may be there, another one only if it is finished or has diverged and may go."""
    for root in (path, path / STAGING):
        if not (root / "recipe.toml").is_file():
            continue
        left = recipe_in(root)
        if left.same_as(recipe):
            continue
        ended = diverged is not None and left.same_as(diverged.recipe)
        if overwrite and (ended or (root / "scores.json").is_file()):
            continue
        changed = [key for key, value in vars(recipe).items() if getattr(left, key) != value]
        raise ValueError(
            f"{path} holds a run of other settings ({', '.join(changed)}); choose another folder with"
            " --out" + ("" if overwrite else ", or replace runs that have ended with --overwrite")
        )


def _outcome(folder: OutputFolder, cell: Cell, overwrite: bool, report: Report) -> Outcome:
    path = folder.path / cell.name
    if (path / "scores.json").is_file() and (run := load_run(path)).recipe.same_as(cell.recipe):
        return Outcome(cell.recipe, path, run.scores)
    diverged = failures_in(folder.path).get(cell.name)
    if diverged is not None and diverged.recipe.same_as(cell.recipe) and not overwrite:
        return Outcome(cell.recipe, path, None, diverged.reason)
    if diverged is not None:
        _forget(folder, cell, diverged.recipe)
    try:
        _train(path, cell.recipe, report)
    except (DivergenceError, NonFiniteStateError) as error:  # the latter before the first step
        _note(folder, cell, str(error))
        return Outcome(cell.recipe, path, None, str(error))
    return Outcome(cell.recipe, path, load_run(path).scores)


def _forget(folder: OutputFolder, cell: Cell, diverged: Recipe) -> None:
    """Of a training that diverged, what it would go on from; it is a new one from now on."""
    path = folder.path / cell.name
    begun = (path / "recipe.toml").is_file() and not (path / "scores.json").is_file()
    if begun and recipe_in(path).same_as(diverged):
        for name in (STATE, "recipe.toml"):
            folder.remove(f"{cell.name}/{name}")
    _note(folder, cell, None)


def _train(path: Path, recipe: Recipe, report: Report) -> None:
    """A new run; where one was begun before, it goes on, or begins again if no epoch of it is whole."""
    if interrupted(path):
        steps = train(recipe, path, resume=True, report=report)
    else:
        steps = train(recipe, path, overwrite=True, report=report)
    for _ in steps:
        pass


def _note(folder: OutputFolder, cell: Cell, reason: str | None) -> None:
    """Keep or forget that a cell diverged."""
    failures = failures_in(folder.path)
    failures.pop(cell.name, None)
    if reason is not None:
        failures[cell.name] = Failure(cell.recipe, reason)
    folder.write_text(FAILURES, failures_as_json(failures))


def collected(folders: Sequence[Path], report: Report = lambda line: None) -> list[Outcome]:
    """The runs with an accuracy anywhere below these folders, and what a table noted as diverged; each once.

    Others, and files that cannot be read, are named to ``report`` and left out, as are copies: runs of one recipe,
    seed and folder of data are not two samples. What lies in a `STAGING` has not ended. Raises ValueError where
    nothing is left.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
    found = [each for path in _ended(folders, "recipe.toml") for each in _read(path.parent, report)]
    for path in _ended(folders, FAILURES):
        found += _diverged(path.parent, report)
    if not found:
        places = ", ".join(map(str, folders))
        raise ValueError(f"no finished run of a recipe that classifies lies in {places}")
    return _once(found, report)


def _ended(folders: Sequence[Path], name: str) -> list[Path]:
    """Files of that name, each once: folders may overlap."""
    paths: dict[Path, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob(name)):
            if STAGING not in path.relative_to(folder).parts:
                paths.setdefault(path.resolve(), path)
    return list(paths.values())


def _once(outcomes: Sequence[Outcome], report: Report) -> list[Outcome]:
    """Without copies; the first one stays."""
    kept: dict[tuple[Any, ...], Outcome] = {}
    for each in outcomes:
        settings = (value for key, value in vars(each.recipe.resolved).items() if key not in AGAIN)
        first = kept.setdefault((each.scores is None, *settings), each)
        if first is not each:
            report(f"left out: {each.folder} is the same recipe and seed as {first.folder}")
    return list(kept.values())


def _read(folder: Path, report: Report) -> list[Outcome]:
    try:
        run = load_run(folder)
    except (ValueError, OSError) as error:
        report(f"left out: {error}")
        return []
    if "validation_accuracy" not in run.scores:
        report(f"left out: {folder} has no accuracy")
        return []
    return [Outcome(run.recipe, folder, run.scores)]


def _diverged(folder: Path, report: Report) -> list[Outcome]:
    """What the table in a folder noted as diverged."""
    try:
        known = failures_in(folder)
    except (ValueError, OSError) as error:
        report(f"left out: {error}")
        return []
    return [Outcome(each.recipe, folder / name, None, each.reason) for name, each in known.items()]
