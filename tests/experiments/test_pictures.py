"""Pictures: what a reader has to see is on the level that is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keelnet.data.prepared import Volume
from keelnet.experiments import pictures
from keelnet.experiments.pictures import level_shown

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
