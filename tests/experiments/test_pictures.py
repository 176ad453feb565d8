"""Pictures: what a reader has to see is on the level that is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from keelnet.data.prepared import Volume
from keelnet.experiments import pictures
from keelnet.experiments.pictures import level_shown
from keelnet.experiments.resident import STATUS, status_of

SPACE = (6, 5, 7)


def marked(label=0, *levels):
    """Classes with one voxel of this label on each of these levels."""
    found = np.zeros(SPACE, np.uint8)
    found[2, 2, list(levels)] = label
    return found


def brain(level):
    x = np.zeros((4, *SPACE), np.float16)
    x[:, 1:4, 1:4, level] = -1.0
    return x


def test_the_level_is_that_of_truth_and_prediction_or_of_the_brain():
    x, empty = brain(4), marked()
    assert level_shown(x, empty, empty) == 4
    for one, other in ((empty, marked(2, 1)), (marked(2, 1), empty)):
        assert level_shown(x, one, other) == 1
    assert level_shown(x, marked(2, 1, 5), marked(2, 5)) == 5
    assert level_shown(x, marked(2, 1), marked(2, 1) | marked(3, 5)) == 5  # the core, which is less


def test_false_positives_of_a_case_without_tumour_are_shown(monkeypatch):
    monkeypatch.setattr(pictures, "png", lambda figure: figure)
    volume = Volume("a", brain(4), marked(), np.zeros((0, 4), np.int16), (1.0, 1.0, 1.0), Path())
    figure = pictures.tumours([volume], [marked(1, 3)])
    truth, prediction = (axes.images[1].get_array().count() for axes in figure.axes[2:4])
    assert (truth, prediction) == (0, 1)


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux says what is mapped")
@pytest.mark.usefixtures("unrendered")
def test_of_mapped_volumes_nothing_is_left_in_memory(tmp_path):
    """A level lies in all pages of its file."""
    sides = (96, 96, 96)
    for name, values in (("x", np.ones((4, *sides), np.float16)), ("classes", np.ones(sides, np.uint8))):  # fmt: skip
        np.save(tmp_path / f"{name}.npy", values)
    x, classes = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "classes"))
    volume = Volume("a", x, classes, np.zeros((0, 4), np.int16), (1.0, 1.0, 1.0), tmp_path)
    found = np.ones(sides, np.uint8)
    pictures.tumours([volume], [found])  # code of libraries is mapped too
    volume.let_go()
    before = status_of("RssFile")
    pictures.tumours([volume], [found])
    assert status_of("RssFile") - before < 1_000_000


CURVES = {  # by epoch: where a value stands alone, which a line does not show
    "one epoch": ([0.5], [0]),
    "a line": ([0.5, 0.6, 0.7], []),
    "a gap": ([0.5, None, 0.7, 0.8], [0]),
    "between gaps and at the end": ([None, 0.5, None, 0.6, 0.7, None, 0.8], [1, 6]),
}


@pytest.mark.parametrize("which", CURVES)
def test_a_value_that_stands_alone_is_marked(which, monkeypatch):
    monkeypatch.setattr(pictures, "png", lambda figure: figure)
    values, alone = CURVES[which]
    history = [
        {"epoch": epoch, "terms": {"loss": 1.0}, "scores": {"dice": value}, "best": True}
        for epoch, value in enumerate(values, 1)
    ]
    objective, scores = pictures.curves("tumour", history).axes
    loss, dice = objective.lines[0], scores.lines[0]
    assert (loss.get_marker() == "o") == (len(values) == 1)
    assert (dice.get_marker() == "o") == bool(alone)
    assert dice.get_markevery() == (alone or None)
