"""Pictures of decisions: the regions are those of the network, and every error has its ring."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from keelnet.data.samples import InMemory
from keelnet.data.toys import peaks
from keelnet.experiments import planes
from keelnet.experiments.planes import CLASSES, decisions


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, before they become bytes."""
    drawn: list[Figure] = []

    def keep(figure):
        drawn.append(figure)
        return b"png"

    monkeypatch.setattr(planes, "png", keep)
    return drawn


def quadrants(classes):
    """Points by the sign of their first coordinate, as the classes 0 and classes − 1."""
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 1.0], [1.0, 0.5]])
    labels = torch.tensor([0, classes - 1, 0, classes - 1])
    return InMemory((x, labels), (x, labels), tuple(f"class {n}" for n in range(classes)))


def test_regions_are_where_the_network_says(figures):
    samples = quadrants(2)
    decisions(lambda points: (points[:, 0] > 0).long(), samples)
    for axes in figures[0].axes:
        (image,) = axes.images
        seen = np.asarray(image.get_array())
        left, right, bottom, top = image.get_extent()
        assert left < -1 and right > 1 and bottom < 0 and top > 1
        columns = np.linspace(left, right, seen.shape[1])
        assert (seen[:, columns < -0.05] == 0).all() and (seen[:, columns > 0.05] == 1).all()
        assert axes.get_title().endswith("0 wrong")


def test_upwards_is_the_second_coordinate(figures):
    decisions(lambda points: (points[:, 1] > 0.5).long(), quadrants(2))
    seen = np.asarray(figures[0].axes[0].images[0].get_array())
    assert (seen[0] == 0).all() and (seen[-1] == 1).all()


def test_errors_are_counted_and_ringed(figures):
    decisions(lambda points: torch.zeros(len(points), dtype=torch.int64), quadrants(3))
    for axes in figures[0].axes:
        assert axes.get_title().endswith("2 wrong")
        (rings,) = axes.lines
        assert len(rings.get_xdata()) == 2 and (np.asarray(rings.get_xdata()) == 1).all()


def test_five_classes_have_five_colours_and_a_sixth_is_refused():
    assert len(set(CLASSES)) == 5
    samples = peaks(0)
    assert decisions(lambda points: points[:, 0].long().clamp(0, 4), samples)[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="at most 5 classes, got 6"):
        decisions(lambda points: points[:, 0].long(), quadrants(6))
