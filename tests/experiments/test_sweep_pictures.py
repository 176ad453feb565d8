"""Pictures of sweeps: one for each recipe in which a number varies, with a line an architecture."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from keelnet.experiments import sweep_pictures
from keelnet.experiments.comparison import grouped
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.sweep_pictures import sweeps
from keelnet.experiments.table import Outcome

ROLL, QTIPS = recipe_named("swiss_roll"), recipe_named("qtips")


def runs(names=("residual", "hamiltonian"), failing=(), base=ROLL, **varied):
    (key, values), *rest = varied.items()
    outcomes = []
    for number, value in enumerate(values):
        changes = {key: value, **{other: every[number] for other, every in rest}}
        for name in names:
            for seed in (0, 1):
                recipe = replace(base, architecture=name, seed=seed, **changes)
                scores = {"validation_accuracy": 0.5 + 0.1 * seed, "growth": 2.0 + seed}
                failed = (name, value) in failing
                outcomes.append(
                    Outcome(
                        recipe, Path(name), None if failed else scores, (failed and "nan") or None
                    )
                )
    return grouped(outcomes)


@pytest.fixture
def figures(monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr(sweep_pictures, "png", lambda figure: drawn.append(figure) or b"png")
    return drawn


def test_lines_are_means_over_the_values(figures):
    assert list(sweeps(runs(depth=(4, 8, 16)))) == ["swiss_roll-depth.png"]
    accuracy, growth = figures[0].axes
    assert [list(line.get_xdata()) for line in accuracy.lines] == [[4, 8, 16]] * 2
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([55] * 3)
    assert list(growth.lines[0].get_ydata()) == pytest.approx([2.5] * 3)
    assert growth.get_yscale() == "log" and accuracy.get_xlabel().startswith("depth")
    colours = {line.get_color() for line in accuracy.lines}
    assert len(colours) == 2


def test_an_architecture_looks_the_same_in_every_picture(figures):
    sweeps(runs(("residual", "hamiltonian"), depth=(4, 8)))
    sweeps(runs(("hamiltonian",), samples=(20, 50)))
    one, other = figures[0].axes[0].lines[1], figures[1].axes[0].lines[0]
    assert one.get_color() == other.get_color() and one.get_marker() == other.get_marker()


def test_depth_is_drawn_against_when_the_final_time_goes_with_it(figures):
    assert list(sweeps(runs(final_time=(1.0, 2.0), depth=(4, 8)))) == ["swiss_roll-depth.png"]


def test_a_run_that_diverged_is_a_cross(figures):
    sweeps(runs(depth=(4, 8), failing={("residual", 8)}))
    accuracy, _ = figures[0].axes
    crosses = [line for line in accuracy.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[8]]
    assert "diverged" in [text.get_text() for text in figures[0].legends[0].get_texts()]


def test_an_architecture_that_no_table_makes_is_drawn_too(figures):
    """Its runs are collected, and may have diverged."""
    names = ("residual", "segmenter")
    sweeps(runs(names, failing={("segmenter", 8)}, base=QTIPS, depth=(4, 8)))
    looks = [(line.get_color(), line.get_marker()) for line in figures[0].legends[0].get_lines()]
    assert (
        len(looks) == len({mark for _, mark in looks}) == len({colour for colour, _ in looks}) == 3
    )


@pytest.mark.parametrize("varied", [{"depth": (4,)}, {"activation": ("tanh", "relu")}])
def test_where_no_number_varies_there_is_no_picture(varied):
    assert sweeps(runs(**varied)) == {}


def test_a_picture_is_png():
    assert sweeps(runs(depth=(4, 8)))["swiss_roll-depth.png"].startswith(b"\x89PNG")
