"""Comparisons: rows differ in more than the seed, means and spreads are those of their runs."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from keelnet.experiments.comparison import as_json, as_markdown, grouped
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.table import Outcome

ROLL = recipe_named("swiss_roll")


def outcome(accuracy=0.5, failure=None, **changes):
    recipe = replace(ROLL, **changes)
    scores = {
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy / 2,
        "accuracy_under_noise": {"0.1": accuracy / 4},
        "growth": 10 * accuracy,
        "seconds": 3.0,
        "parameters": 7,
    }
    place = Path("table", recipe.architecture, f"seed-{recipe.seed}")
    return Outcome(recipe, place, None if failure else scores, failure)


@given(accuracies=some.lists(some.floats(0, 1), min_size=1, max_size=5))
def test_a_row_is_the_mean_over_its_seeds(accuracies):
    runs = [outcome(accuracy, seed=seed) for seed, accuracy in enumerate(accuracies)]
    (group,) = grouped(runs)
    assert group.settings == {} and group.failed == 0
    for measure, factor in (("validation_accuracy", 1), ("noise 0.1", 0.25), ("growth", 10)):
        values = [factor * accuracy for accuracy in accuracies]
        assert group.mean(measure) == pytest.approx(statistics.fmean(values))
        if len(values) > 1:
            assert group.spread(measure) == pytest.approx(statistics.stdev(values))
        else:
            assert group.spread(measure) is None


def test_what_sets_rows_apart_is_named_and_where_they_ran_is_not():
    runs = [outcome(depth=depth, seed=seed) for depth in (16, 4) for seed in (0, 1)]
    runs.append(outcome(depth=4, seed=2, threads=1))
    groups = grouped(runs)
    assert [group.settings for group in groups] == [{"depth": 4}, {"depth": 16}]
    assert [len(group.outcomes) for group in groups] == [3, 2]


def test_other_data_are_another_row_called_by_the_parts_that_tell_them_apart():
    mnist = recipe_named("mnist")
    runs = [
        Outcome(replace(mnist, folder=f"/d/{data}/raw", seed=seed), Path(data), {"growth": 1.0})
        for seed, data in enumerate(("MNIST", "KMNIST", "MNIST"))
    ]
    groups = grouped(runs)
    assert [group.settings["folder"] for group in groups] == ["KMNIST/raw", "MNIST/raw"]
    assert [len(group.outcomes) for group in groups] == [1, 2]
    assert "| hamiltonian | KMNIST/raw | 1 |" in as_markdown(groups, Path("table"))
    (alone,) = grouped([runs[0], runs[2]])
    assert alone.settings == {}


def test_a_table_says_what_made_its_runs_and_where_they_were_collected():
    runs = [outcome(seed=seed, threads=seed) for seed in (2, 1)]
    for number, each in enumerate(runs):
        each.scores.update(keelnet="0.1", torch=f"2.{number}")
    runs.append(outcome(seed=3, failure="the objective became nan", threads=1))
    text = as_markdown(grouped(runs), Path("table"))
    assert "keelnet 0.1 with torch 2.0, 2.1, device cpu, threads 1, 2 (0: torch's choice)." in text
    assert "Collected on" in text
    made = json.loads(as_json(grouped(runs), Path("table")))["made_by"]
    assert made == {"keelnet": ["0.1"], "torch": ["2.0", "2.1"], "threads": [1, 2], "device": ["cpu"]}  # fmt: skip


def test_rows_stand_in_the_order_of_numbers_and_architectures():
    runs = [
        outcome(depth=depth, architecture=name)
        for depth in (128, 1024, 8)
        for name in ("second_order", "residual")
    ]
    places = [(group.settings["depth"], group.architecture) for group in grouped(runs)]
    assert places == [(d, name) for d in (8, 128, 1024) for name in ("residual", "second_order")]


def test_what_diverged_is_counted_and_takes_no_part_in_the_mean():
    runs = [outcome(0.8, seed=0), outcome(seed=1, failure="the objective became nan")]
    (group,) = grouped(runs)
    assert group.failed == 1 and group.mean("validation_accuracy") == 0.8
    assert "| 2, 1 diverged | 80.0 |" in as_markdown([group], Path("table"))
    (nothing,) = grouped(runs[1:])
    assert nothing.mean("growth") is None and nothing.measures == ()
    text = as_markdown(grouped([*runs[1:], outcome(architecture="residual")]), Path("table"))
    (line,) = [line for line in text.splitlines() if line.startswith("| hamiltonian")]
    assert "| 1, 1 diverged | – |" in line


def test_the_page_has_a_column_for_every_number_and_none_without():
    text = as_markdown(grouped([outcome(0.5), outcome(0.7, seed=1)]), Path("table"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "noise σ = 0.1, %" in lines[0] and "depth" not in lines[0]
    assert (
        "| hamiltonian | 2 | 60.0 ± 14.1 | 30.0 ± 7.1 | 15.0 ± 3.5 | 6 ± 1.41 | 3 ± 0 | 7 |" in text
    )


def test_the_file_holds_every_run(tmp_path):
    runs = [outcome(0.5), outcome(0.7, seed=1), outcome(seed=2, failure="diverged")]
    content = json.loads(as_json(grouped(runs), Path("table")))
    (row,) = content["rows"]
    assert row["mean"]["validation_accuracy"] == pytest.approx(0.6)
    assert [run["seed"] for run in row["runs"]] == [0, 1, 2]
    assert row["runs"][0]["folder"] == "hamiltonian/seed-0" and row["runs"][2]["scores"] is None
    assert content["collected_on"]["cores"] >= 1


def test_growth_without_bound_takes_no_part():
    runs = [outcome(0.5), outcome(0.7, seed=1)]
    runs[0].scores["growth"] = None
    (group,) = grouped(runs)
    assert group.values("growth") == [7.0] and len(group.values("seconds")) == 2
