"""Races: times to where another way ends are read off the histories, seed by seed."""

import json
from dataclasses import replace

import pytest

from keelnet.experiments.comparison import grouped
from keelnet.experiments.races import (
    Arrival,
    Course,
    Way,
    as_table,
    drawn,
    raced,
    races,
    savings,
    standing,
)
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.table import Outcome

ROLL = recipe_named("swiss_roll")


def outcome(folder, pace, /, **changes):
    """A run whose objective falls by its pace a second, as its error does; every epoch is judged for a second."""
    recipe = replace(ROLL, **changes)
    place = folder / f"{recipe.method}-{recipe.levels}-{recipe.architecture}-{recipe.seed}"
    place.mkdir()
    lines = [
        {
            "seconds": 2.0 * epoch,
            "judging": 1.0 * epoch,
            "terms": {"loss": 10.0 - pace * epoch, "tikhonov": 0.0},
            "scores": {"accuracy": 0.5 + 0.04 * pace * epoch},
        }
        for epoch in range(1, 5)
    ]
    (place / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = {"validation_accuracy": 0.5, "seconds": 8.0, "growth": 1.0, "parameters": 3}
    return Outcome(recipe, place, scores)


def test_times_leave_out_what_validation_took(tmp_path):
    course = Course.read(outcome(tmp_path, 1.0).folder)
    assert course.seconds == (1.0, 2.0, 3.0, 4.0)
    assert course.until_objective(8.0) == 2.0 and course.until_accuracy(0.62) == 3.0
    assert course.until_objective(1.0) is None and course.until_accuracy(0.9) is None


def test_a_way_twice_as_fast_takes_half_the_time(tmp_path):
    runs = [outcome(tmp_path, 2.0, levels=2, seed=seed) for seed in (0, 1)]
    runs += [outcome(tmp_path, 1.0, seed=seed) for seed in (0, 1)]
    slow, fast = raced(grouped(runs))
    assert (slow.name, fast.name) == ("1 level", "2 levels")
    found = standing(slow, fast)
    assert found.to_objective == found.to_accuracy == Arrival(2.0, 4.0, 0.5)
    assert "| 2 levels | 2 | 2 | 82.0 | 2 of 4 (0.50) | 2 of 4 (0.50) |" in as_table([slow, fast])
    assert (found.objective, found.accuracy) == (2.0, pytest.approx(0.82))
    (line,) = savings(grouped(runs))
    assert "2 levels saves 50 % of the time of 1 level" in line
    behind = standing(fast, slow)
    assert behind.to_objective is None and behind.to_accuracy == Arrival(4.0, 2.0, 2.0)
    assert "not reached" in as_table([fast, slow])


def test_adam_on_all_layers_stands_first_and_architectures_race_apart(tmp_path):
    runs = [
        outcome(tmp_path, 1.0, method=method, levels=levels, architecture=name)
        for method in ("varpro", "adam")
        for levels in (2, 1)
        for name in ("residual", "hamiltonian")
    ]
    texts, pictures = races(grouped(runs))
    assert set(texts) == {"swiss_roll"}
    assert set(pictures) == {f"swiss_roll-race-{name}.png" for name in ("residual", "hamiltonian")}
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    own = [group for group in grouped(runs) if group.architecture == "residual"]
    assert raced(own)[0].name == "adam, 1 level"
    assert len(raced(own)) == 4


def test_ways_race_on_the_same_data_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("keelnet.experiments.races.picture", lambda title, ways: b"png")
    runs = []
    for data in ("MNIST", "KMNIST"):
        (tmp_path / data).mkdir()
        for pace, method in ((1.0, "adam"), (2.0, "sgd")):
            changes = {"name": "mnist", "data": "mnist", "folder": f"/d/{data}/raw"}
            runs.append(outcome(tmp_path / data, pace, method=method, **changes))
    texts, pictures = races(grouped(runs))
    assert set(pictures) == {f"mnist-race-hamiltonian-{data}-raw.png" for data in ("MNIST", "KMNIST")}  # fmt: skip
    assert texts["mnist"].count("ways of training") == 2
    lines = savings(grouped(runs))
    assert len(lines) == 2 and all("sgd saves 50 % of the time of adam" in line for line in lines)


def test_two_runs_of_a_seed_do_not_stand_for_one(tmp_path):
    runs = [outcome(tmp_path, 1.0, method=method) for method in ("adam", "sgd")]
    with pytest.raises(ValueError, match="two runs of swiss_roll in one row share a seed"):
        raced(grouped([*runs, runs[0]]))


def test_runs_that_differ_in_no_way_of_training_do_not_race(tmp_path):
    runs = [outcome(tmp_path, 1.0, depth=depth, seed=depth) for depth in (8, 16)]
    assert races(grouped(runs)) == ({}, {}) and savings(grouped(runs)) == []


def errors_drawn(*accuracies):
    """Lines and labelled ticks of the axis of errors, a way for each course of accuracies."""
    ways = [
        Way(str(number), {0: Course((1.0, 2.0, 3.0), (3.0, 2.0, 1.0), each)})
        for number, each in enumerate(accuracies)
    ]
    figure = drawn("recipe", ways)
    figure.draw_without_rendering()
    axes = figure.axes[1]
    low, high = axes.get_ylim()
    ticks = [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()]
    labels = {
        each.get_loc(): each.label1.get_text() for each in ticks if low <= each.get_loc() <= high
    }
    return [list(line.get_ydata()) for line in axes.lines], labels


@pytest.mark.parametrize("least", [0.02, 0.018])
def test_no_error_is_drawn_at_half_the_least_one_and_called_0(least):
    """Also where a tick of the axis lies at that very place."""
    lines, labels = errors_drawn((0.5, 1 - least, 1.0), (0.5, 0.6, 0.7))
    assert lines[0] == pytest.approx([50, 100 * least, 50 * least])
    assert lines[1] == pytest.approx([50, 40, 30])
    (nothing,) = (place for place, text in labels.items() if text == "0")
    assert nothing == min(labels) == pytest.approx(50 * least)
    assert {"10", "20"} <= set(labels.values())


def test_where_every_way_errs_no_tick_says_0():
    lines, labels = errors_drawn((0.5, 0.75, 0.999))
    assert lines == [pytest.approx([50, 25, 0.1])] and labels and "0" not in labels.values()


def test_where_no_way_errs_there_is_a_line_all_the_same():
    lines, labels = errors_drawn((1.0, 1.0, 1.0))
    assert lines == [[50.0] * 3] and labels[50.0] == "0"
