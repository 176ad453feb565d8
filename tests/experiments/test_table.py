"""Tables: every run once, kept, gone on with, never replaced unasked; what diverges is an outcome."""

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from keelnet.experiments import pictures, schemes, table
from keelnet.experiments.classification import Plane
from keelnet.experiments.folders import OutputFolder
from keelnet.experiments.problems import problem
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.runs import load_run, train
from keelnet.experiments.table import ARCHITECTURES, Design, Sweep, collected, fill
from keelnet.learning import Stored
from keelnet.propagation.bounds import NonFiniteStateError

TINY = replace(recipe_named("swiss_roll"), width=4, depth=2, epochs=1, batch=514, threads=1)
DESIGN = Design((TINY,), ("residual", "hamiltonian"), seeds=2)


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """They take longer than these trainings, and a table does not look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plane, "pictures", lambda task, network: {})
        patch.setattr(pictures, "curves", lambda title, history: b"")
        yield


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    out = tmp_path_factory.mktemp("tables") / "table"
    return out, list(fill(out, DESIGN))


def files(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_a_design_is_the_product_of_its_parts():
    other = replace(TINY, name="ellipses", data="ellipses")
    design = Design((TINY, other), seeds=3, sweep=Sweep.read("depth=2, 4"))
    names = [cell.name for cell in design.cells]
    assert len(set(names)) == len(names) == 2 * 6 * 3 * 2
    assert "ellipses/depth-4/second_order/seed-2" in names
    for cell in design.cells:
        name, part, architecture, seed = cell.name.split("/")
        assert (cell.recipe.name, cell.recipe.architecture) == (name, architecture)
        assert f"depth-{cell.recipe.depth}" == part and f"seed-{cell.recipe.seed}" == seed
        assert cell.recipe.final_time == TINY.final_time


def test_a_fixed_step_lets_the_final_time_grow_with_the_depth():
    sweep = Sweep.read("depth=1,2,64", fixed_step=True)
    for recipe in sweep.of(TINY).values():
        assert recipe.final_time / recipe.depth == TINY.final_time / TINY.depth


@pytest.mark.parametrize(
    ("text", "fixed", "message"),
    [
        ("depth", False, "key=value,value"),
        ("=3", False, "key=value,value"),
        ("depth=", False, "key=value,value"),
        ("depth=3,,4", False, "key=value,value"),
        ("depth=3,3", False, "without repeats"),
        ("threads=1,2", False, "one row of a table"),
        ("folder=a,b", False, "one folder of data: make one of each.*--from"),
        ("width=3,4", True, "a sweep of depth, got one of width"),
        ("seed=5,6", False, "varies seed itself: choose with --seeds"),
        ("architecture=residual,hamiltonian", False, "choose with --architectures"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(text, fixed, message):
    with pytest.raises(ValueError, match=message):
        Sweep.read(text, fixed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": ()}, "a recipe, an architecture and a seed at least"),
        ({"seeds": 0}, "a recipe, an architecture and a seed at least"),
        ({"architectures": ("segmenter",)}, "unknown architecture 'segmenter'; known are residual"),
        ({"recipes": (recipe_named("tumour"),)}, "recipe tumour has none"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DESIGN, **changes)


def test_every_cell_is_a_run_of_its_own(filled):
    out, outcomes = filled
    assert [outcome.recipe for outcome in outcomes] == [cell.recipe for cell in DESIGN.cells]
    for cell, outcome in zip(DESIGN.cells, outcomes, strict=True):
        assert outcome.folder == out / cell.name and outcome.failure is None
        assert load_run(out / cell.name).scores == outcome.scores


def test_what_is_there_is_not_computed_again(filled):
    out, outcomes = filled
    before = files(out)
    assert list(fill(out, DESIGN)) == outcomes
    assert list(fill(out, DESIGN, overwrite=True)) == outcomes
    assert files(out) == before


def test_an_interrupted_table_goes_on(filled, tmp_path):
    out, whole = filled
    steps = fill(tmp_path / "table", DESIGN)
    first = next(steps)
    steps.close()
    kept = files(tmp_path / "table")
    second = train(DESIGN.cells[1].recipe, tmp_path / "table" / DESIGN.cells[1].name)
    next(second)  # one epoch of one, not finished
    second.close()
    # A third that was cut off before its first epoch was whole.
    third = tmp_path / "table" / DESIGN.cells[2].name
    third.mkdir(parents=True)
    (third / "recipe.toml").write_text((out / DESIGN.cells[2].name / "recipe.toml").read_text())
    outcomes = list(fill(tmp_path / "table", DESIGN))
    assert outcomes[0] == first and kept.items() <= files(tmp_path / "table").items()
    for found, expected in zip(outcomes, whole, strict=True):
        for key in ("validation_accuracy", "test_accuracy", "growth", "accuracy_under_noise"):
            assert found.scores[key] == expected.scores[key]


def test_runs_of_other_settings_are_kept_unless_asked(filled, tmp_path):
    out = tmp_path / "table"
    alone = replace(DESIGN, architectures=("hamiltonian",), seeds=1)
    list(fill(out, alone))
    before = files(out)
    other = replace(alone, recipes=(replace(TINY, rate=3e-3),))
    with pytest.raises(ValueError, match=r"run of other settings \(rate\).*--overwrite"):
        next(fill(out, other))
    assert files(out) == before
    (outcome,) = fill(out, other, overwrite=True)
    assert load_run(outcome.folder).recipe.rate == 3e-3


def test_a_table_goes_on_where_an_overwriting_run_was_killed_in_its_first_epoch(filled, tmp_path):
    shutil.copytree(filled[0], tmp_path / "table")
    other = replace(DESIGN, recipes=(replace(TINY, rate=3e-3),), seeds=1)
    cell = other.cells[0]
    staged = tmp_path / "table" / cell.name / ".unfinished"
    staged.mkdir()
    (staged / "recipe.toml").write_text(tomli_w.dumps(cell.recipe.as_table()))
    first, _ = fill(tmp_path / "table", other, overwrite=True)
    assert first.failure is None and load_run(first.folder).recipe == cell.recipe


def test_an_unfinished_run_of_other_settings_is_never_replaced(tmp_path):
    alone = replace(DESIGN, architectures=("hamiltonian",), seeds=1)
    steps = train(replace(alone.cells[0].recipe, rate=1e-3), tmp_path / "t" / alone.cells[0].name)
    next(steps)
    steps.close()
    (tmp_path / "t" / "table.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"other settings \(rate\); choose another folder"):
            next(fill(tmp_path / "t", alone, overwrite))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds no table.*; choose another with --out$"):
            next(fill(tmp_path, DESIGN, overwrite))
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 5}, "even"),
        ({"batch": 600}, "use batch="),
        ({"depth": 0}, "depth"),
        ({"products": "bfloat16"}, "use products=state"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, changes, message):
    design = replace(DESIGN, recipes=(TINY, replace(TINY, **changes)))
    with pytest.raises(ValueError, match=message):
        next(fill(tmp_path / "table", design))
    assert not (tmp_path / "table").exists()


def test_the_documented_sweep_of_samples_can_be_trained():
    page = (Path(__file__).parents[2] / "docs" / "classification.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"keelnet table (.*--sweep samples=.*)", page)
    name, settings = line.split()[0], re.findall(r"--set (\S+)", line)
    recipe = recipe_named(name).with_settings([*settings, "width=4", "depth=1"])
    sweep = Sweep.read(re.search(r"--sweep (\S+)", line)[1])
    fewest = min(sweep.of(recipe).values(), key=lambda each: each.samples)
    assert len(problem(fewest).task.samples.training[0]) == 25


def test_what_diverges_is_an_outcome_and_tried_again_only_if_asked(tmp_path, monkeypatch):
    wild = replace(TINY, rate=1e30, clip=None, warmup=0.0, activation="relu", epochs=3)
    design = Design((wild,), ("residual",), seeds=1)
    (outcome,) = fill(tmp_path / "table", design)
    assert outcome.scores is None and any(word in outcome.failure for word in ("number", "finite"))
    calls = []
    real = table.train
    monkeypatch.setattr(table, "train", lambda *a, **k: calls.append(a) or real(*a, **k))
    assert list(fill(tmp_path / "table", design)) == [outcome] and not calls
    assert list(fill(tmp_path / "table", design, overwrite=True)) == [outcome] and len(calls) == 1
    assert collected([tmp_path]) == [outcome]


def test_what_is_refused_stops_a_table_and_is_no_outcome(tmp_path, monkeypatch):
    """A published table must not say that it diverged, nor be finished with it."""
    recipe = replace(TINY, method="gauss_newton", tangent="stored", batch=0, warmup=0.1)
    monkeypatch.setitem(schemes.TANGENTS, "stored", Stored(entries=1000))
    design = Design((recipe,), ("residual",), seeds=1)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"J has \d+ rows .* use tangent=Forward"):
            next(fill(tmp_path / "table", design))
    assert not (tmp_path / "table" / "failures.json").exists()
    monkeypatch.setitem(schemes.TANGENTS, "stored", Stored())
    (outcome,) = fill(tmp_path / "table", design)
    assert outcome.failure is None


def test_what_diverged_after_an_epoch_is_trained_anew_with_other_settings_or_the_same(tmp_path):
    """It left a state, which would only diverge again."""
    out, design = tmp_path / "table", Design((TINY,), ("residual",), seeds=1)
    (cell,) = design.cells
    steps = train(replace(cell.recipe, rate=0.5, epochs=3), out / cell.name)
    next(steps)
    steps.close()
    doomed = tomli_w.dumps(replace(cell.recipe, rate=0.5, epochs=3).as_table())
    noted = {cell.name: {"failure": "training diverged", "recipe": doomed}}
    (out / "table.json").write_text("{}")
    (out / "failures.json").write_text(json.dumps(noted))
    same = replace(design, recipes=(replace(TINY, rate=0.5, epochs=3),))
    with pytest.raises(ValueError, match=r"other settings \(rate, epochs\).*--overwrite"):
        next(fill(out, design))
    (outcome,) = fill(out, same)
    assert outcome.failure == "training diverged"
    shutil.copytree(out, tmp_path / "again")
    (outcome,) = fill(out, design, overwrite=True)
    assert outcome.failure is None and load_run(outcome.folder).recipe == cell.recipe
    (outcome,) = fill(tmp_path / "again", same, overwrite=True)
    epochs = [line["epoch"] for line in load_run(outcome.folder).history]
    assert outcome.failure is None and epochs == [1, 2, 3]
    for folder in (out, tmp_path / "again"):
        assert not (folder / cell.name / "state.pt").exists()
        assert json.loads((folder / "failures.json").read_text()) == {}


def test_a_run_is_collected_once(filled, tmp_path):
    """Not again where folders overlap, not while it is staged, and copies are no further seeds."""
    out, _ = filled
    runs = tmp_path / "runs"
    shutil.copytree(out, runs / "table")
    first = replace(TINY, architecture="residual")
    for recipe in (first, replace(first, seed=7)):
        list(train(recipe, tmp_path / f"seed-{recipe.seed}"))
    shutil.copytree(tmp_path / "seed-7", runs / "demo" / ".unfinished" / "swiss_roll")
    found = collected([runs / "table"])
    assert len(found) == 4
    assert sorted(map(repr, collected([runs, runs / "table"]))) == sorted(map(repr, found))
    said = []
    shutil.copytree(found[0].folder, runs / "a copy")
    shutil.copytree(tmp_path / "seed-7", runs / "of its own")
    every = collected([runs / "table", runs], said.append)
    assert every[:4] == found and [each.recipe.seed for each in every[4:]] == [7]
    (line,) = said
    assert line.endswith(f"a copy is the same recipe and seed as {found[0].folder}")
    assert collected([runs / "demo" / ".unfinished"])  # asked for by its name


def kept_as(run, place, recipe):
    """A run as one of another recipe."""
    shutil.copytree(run, place)
    (place / "recipe.toml").write_text(tomli_w.dumps(recipe.as_table()))


def test_runs_on_other_data_are_no_copies(filled, tmp_path):
    """Also where both folders are called the same; one that was kept as it was given is the same."""
    every = [("MNIST/raw", 0), ("KMNIST/raw", 0), ("KMNIST/raw", 1)]
    for number, (data, seed) in enumerate(every):
        recipe = replace(recipe_named("mnist"), folder=str(tmp_path / data), seed=seed)
        kept_as(filled[1][0].folder, tmp_path / "runs" / str(number), recipe)
    relative = os.path.relpath(tmp_path / "MNIST/raw")
    copy = replace(recipe_named("mnist"), folder=relative)
    kept_as(filled[1][0].folder, tmp_path / "runs" / "copy", copy)
    said = []
    found = collected([tmp_path], said.append)
    assert [(each.recipe.folder, each.recipe.seed) for each in found] == [
        (str(tmp_path / data), seed) for data, seed in every
    ]
    (line,) = said
    assert line.endswith(f"copy is the same recipe and seed as {tmp_path / 'runs' / '0'}")


def test_files_that_cannot_be_read_are_named(filled, tmp_path):
    """A collection goes on without them, a table does not."""
    out, said = tmp_path / "table", []
    shutil.copytree(filled[0], out)
    (out / "failures.json").write_text("[]")
    assert len(collected([out], said.append)) == 4
    (line,) = said
    assert line.startswith(f"left out: {out / 'failures.json'} is not of a table")
    with pytest.raises(ValueError, match=r"failures\.json is not of a table"):
        next(fill(out, DESIGN))
    (out / "failures.json").unlink()
    broken = out / DESIGN.cells[0].name
    (broken / "recipe.toml").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=f"{broken} holds a recipe that cannot be read"):
        next(fill(out, DESIGN))
    assert len(collected([out])) == 3


@pytest.mark.parametrize("name", ["recipe.toml", "scores.json", "history.jsonl", "failures.json"])
def test_a_collection_goes_on_without_files_that_may_not_be_read(
    filled, tmp_path, monkeypatch, name
):
    shutil.copytree(filled[0], tmp_path / "table")
    (tmp_path / "table" / "failures.json").write_text("{}")
    noted = name == "failures.json"
    secret = tmp_path / "table" / ("" if noted else DESIGN.cells[0].name) / name
    read, said = Path.read_text, []

    def guarded(path, *how, **also):
        if path == secret:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *how, **also)

    monkeypatch.setattr(Path, "read_text", guarded)
    assert len(collected([tmp_path / "table"], said.append)) == (4 if noted else 3)
    (line,) = said
    assert line.startswith("left out: ") and str(secret) in line


def test_a_failure_is_collected_once(tmp_path):
    noted = {
        "x": {"failure": "diverged", "recipe": tomli_w.dumps(replace(TINY, seed=9).as_table())}
    }
    for folder in ("table", "table/.unfinished", "copy"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "failures.json").write_text(json.dumps(noted))
    (outcome,) = collected([tmp_path, tmp_path / "table"])
    assert outcome.failure == "diverged"


def test_a_network_that_overflows_before_it_trains_is_an_outcome(tmp_path):
    """Its first parameters already make the state grow past every number."""
    deep = replace(TINY, depth=1024, final_time=1e6)
    residual, hamiltonian = fill(tmp_path / "table", replace(DESIGN, recipes=(deep,), seeds=1))
    assert residual.scores is None and "not finite after layer" in residual.failure
    assert hamiltonian.recipe.architecture == "hamiltonian"
    assert [one.scores is None for one in collected([tmp_path])].count(True) >= 1


@pytest.mark.parametrize("look", ["final_scores", "pictures"])
def test_a_network_that_overflows_when_it_is_judged_is_an_outcome(tmp_path, monkeypatch, look):
    def overflow(*arguments):
        raise NonFiniteStateError("the state is not finite after layer 976 of 1024")

    monkeypatch.setattr(Plane, look, overflow)
    (outcome,) = fill(tmp_path / "table", Design((TINY,), ("residual",), seeds=1))
    assert outcome.scores is None and "cannot be judged: the state is not finite" in outcome.failure


def test_runs_are_collected_from_anywhere(filled, tmp_path):
    out, outcomes = filled
    said = []
    steps = train(TINY, tmp_path / "unfinished")
    next(steps)
    steps.close()
    found = collected([out.parent, tmp_path], said.append)
    assert sorted(map(repr, found)) == sorted(map(repr, outcomes))
    (line,) = said
    assert "unfinished is not finished" in line
    with pytest.raises(ValueError, match="no finished run"):
        collected([tmp_path])
    with pytest.raises(ValueError, match="is no folder"):
        collected([tmp_path / "nothing"])


def test_the_architectures_are_those_of_the_issue_of_stability():
    from keelnet.networks import architectures

    assert all(callable(getattr(architectures, name)) for name in ARCHITECTURES)


def test_a_run_that_kept_a_relative_folder_stays_in_its_row(filled, tmp_path, monkeypatch):
    """As it was kept once; the data themselves are not read."""
    monkeypatch.chdir(tmp_path)
    now = replace(recipe_named("mnist"), folder=str(tmp_path.resolve() / "data"))
    shutil.copytree(filled[1][0].folder, tmp_path / "table" / "cell")
    kept = tomli_w.dumps(replace(now, folder="data").as_table())
    (tmp_path / "table" / "cell" / "recipe.toml").write_text(kept)
    folder = OutputFolder.claim(tmp_path / "table", overwrite=True)
    found = table._outcome(folder, table.Cell("cell", now), False, print)
    assert found.recipe == now and found.scores is not None
