"""The pictures: what their arrows are, that they are files one can read, and the same every time."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from keelnet.experiments.figures import (
    COORDINATES,
    STYLES,
    canvas,
    euler_figure,
    phase_plane,
    save,
    seed_figures,
    verlet_figure,
)
from keelnet.experiments.seed import READINGS, VERLET_KERNEL, experiments, run_all


@pytest.fixture(scope="module")
def trajectories():
    return run_all()


@pytest.fixture(scope="module")
def figures(trajectories) -> dict[str, Figure]:
    return seed_figures(trajectories)


@pytest.fixture(scope="module")
def files(figures, tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("figures")
    return [file for name, figure in figures.items() for file in save(figure, out / name)]


def test_every_figure_is_a_png_and_an_svg(files, figures):
    assert {file.name for file in files} == {
        f"{name}.{kind}" for name in figures for kind in ("png", "svg")
    }
    for file in files:
        if file.suffix == ".png":
            header = file.read_bytes()[:24]
            assert header.startswith(b"\x89PNG") and int.from_bytes(header[16:20]) >= 1200
        else:
            root = ElementTree.parse(file).getroot()
            assert root.tag.endswith("svg") and len(list(root.iter())) > 100


def test_the_same_numbers_give_the_same_bytes(trajectories, files, tmp_path):
    again = save(euler_figure(trajectories), tmp_path / "figure2_euler")
    first = {file.name: file.read_bytes() for file in files}
    for file in again:
        assert file.read_bytes() == first[file.name]
    assert b"<dc:date>" not in again[1].read_bytes()


def test_panels_are_square_to_the_eye_and_labelled(figures):
    assert {name: len(figure.axes) for name, figure in figures.items()} == {
        "figure2_euler": 6,
        "figure3_verlet_space": 6,
        "figure3_verlet_plane": 6,
        "misprint": 4,
    }
    for figure in figures.values():
        for axis in figure.axes:
            assert axis.get_aspect() == 1
            assert axis.get_title() and axis.get_xlabel() and axis.get_ylabel()
        words = [text.get_text() for text in figure.legends[0].get_texts()]
        assert words[:3] == [style.name for style in STYLES]


def test_every_path_stays_inside_its_panel(figures):
    for figure in figures.values():
        for axis in figure.axes:
            (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
            for line in axis.lines[2:]:
                across, up = line.get_data()
                assert left < min(across) and max(across) < right
                assert bottom < min(up) and max(up) < top


def test_features_differ_in_colour_and_marker():
    for look in ("color", "marker", "name"):
        assert len({getattr(style, look) for style in STYLES}) == len(STYLES)


def test_arrows_of_euler_are_the_step(trajectories):
    """y(1) − y(0) = h y'."""
    for name in ("euler_N21/plus", "antisymmetric_N21/minus_gamma_0.1", "misprint_N21/plus"):
        y = trajectories[name].y
        np.testing.assert_allclose(y[0] + 0.1 * experiments()[name].arrows(y[0]), y[1], atol=1e-15)


@pytest.mark.parametrize("reading", READINGS)
def test_arrows_of_verlet_are_the_first_bend_of_the_path(trajectories, reading):
    """From z = 0 a full kick and a drift move y by h² y'' + O(h⁴), f being odd."""
    name = f"verlet/N20_full/{reading}"
    y = trajectories[name].y
    bend = (y[1] - y[0]) / 0.1**2
    np.testing.assert_allclose(experiments()[name].arrows(y[0]), bend, rtol=0.06)


def test_the_plane_of_the_kernel_sees_all_of_the_arrows():
    """k₁ and k₂ are orthogonal, and y'' depends on, and lies in, their plane."""
    columns = np.array(VERLET_KERNEL)
    assert columns[:, 0] @ columns[:, 1] == 0
    basis = columns / np.linalg.norm(columns, axis=0)
    arrows = experiments()["verlet/N20_full/y_in_R3"].arrows
    points = np.random.default_rng(0).normal(size=(50, 3))
    np.testing.assert_allclose(arrows(points @ basis @ basis.T), arrows(points), atol=1e-12)
    np.testing.assert_allclose(arrows(points) @ basis @ basis.T, arrows(points), atol=1e-12)


def test_verlet_panels_end_where_the_run_ends(trajectories):
    figure = verlet_figure(trajectories, "y_in_R2")
    for axis, depth in zip(figure.axes, (20, 50, 100, 200, 500, 1000), strict=True):
        last = trajectories[f"verlet/N{depth}_full/y_in_R2"].y[-1]
        marks = [line.get_xydata() for line in axis.lines if len(line.get_xydata()) == 1]
        for point in last:
            assert min(np.abs(mark - point).max() for mark in marks) < 1e-12


def test_a_phase_plane_needs_no_field_and_survives_a_still_one():
    figure = canvas(1, 2, width=4)
    y = np.zeros((2, 3, 2))
    phase_plane(figure.axes[0], y, (-1, 1, -1, 1))
    phase_plane(figure.axes[1], y, (-1, 1, -1, 1), rate=np.zeros_like)
    figure.canvas.draw()
    assert figure.axes[1].get_xlabel() == COORDINATES[0]
