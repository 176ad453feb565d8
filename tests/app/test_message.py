"""What the page is sent, and what it exports: the same numbers as the library's."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import EVERY, FIRST

from keelnet.app.density import density
from keelnet.app.drawing import COLOURS, drawn
from keelnet.app.exports import EXPORTS, as_json, as_python
from keelnet.app.message import MANY, NEAR, Picture
from keelnet.app.presets import PRESETS
from keelnet.app.scene import Scene

# Scenes that grow are what the page is for.
pytestmark = pytest.mark.filterwarnings("ignore::keelnet.propagation.StabilityWarning")


def unpacked(content):
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    arrays, offset = {}, 4 + length
    for name, described in header["arrays"].items():
        assert offset % 4 == 0
        count = int(np.prod(described["shape"]))
        dtype = {"u1": np.uint8, "f4": "<f4", "f8": "<f8"}[described["type"]]
        arrays[name] = np.frombuffer(content, dtype, count, offset).reshape(described["shape"])
        offset += -(-arrays[name].nbytes // 4) * 4
    assert offset == len(content)
    return header, arrays


@pytest.mark.parametrize("name", EVERY)
def test_a_message_holds_the_paths(name):
    picture = Picture(EVERY[name])
    header, arrays = unpacked(picture.as_bytes())
    np.testing.assert_allclose(
        arrays["paths"], picture.paths.y[..., :2].transpose(1, 0, 2), rtol=1e-6, atol=1e-7
    )
    assert np.abs(arrays["paths"]).max() <= header["window"]
    assert header["depth"] == arrays["layers"][-1] == arrays["curve"][-1] == 6
    assert arrays["growth"].shape == arrays["shrinking"].shape == (2, len(arrays["growth_layers"]))
    assert arrays["distances"].shape == (1, 7) and arrays["energy"].shape == (2, 7)
    assert header["verdict"]["what"] and header["verdict"]["why"]


def test_a_large_cloud_comes_as_a_density():
    scene = replace(FIRST, cloud=MANY // 6 // 4, depth=25, features=())
    _, arrays = unpacked(Picture(scene, side=200).as_bytes())
    assert arrays["density"].shape == (200, 200) and arrays["density"].any()
    assert arrays["paths"].shape == (0, 26, 2)
    small = unpacked(Picture(replace(scene, cloud=10)).as_bytes())[1]
    assert "density" not in small and small["cloud"].shape == (10, 26, 2)


@pytest.mark.parametrize("plane", [(0, 3), (3, 4), (4, 0)])
def test_any_two_coordinates_make_a_plane(plane):
    scene = replace(EVERY["verlet-hamiltonian-full"], kernel=((1.0, 0.2), (0.1, 0.5), (0.3, 1.0)))
    header, arrays = unpacked(Picture(scene, plane).as_bytes())
    paths = Picture(scene).paths
    assert header["names"] == ["y₁", "y₂", "y₃", "z₁", "z₂"] and "field" not in arrays
    every = np.concatenate([paths.y, paths.z], axis=-1)
    np.testing.assert_allclose(
        arrays["paths"], every[..., list(plane)].transpose(1, 0, 2), atol=1e-6
    )
    with pytest.raises(ValueError, match="a plane has two of the coordinates 0 to 4"):
        Picture(scene, (1, 5)).as_bytes()


@given(st.lists(st.tuples(st.floats(-0.95, 0.95), st.floats(-0.95, 0.95)), min_size=2, max_size=9))
def test_a_density_lies_where_the_path_does(points):
    path = np.array([points], dtype=np.float32)
    counts = density(path, 1.0, 64)
    rows, columns = np.nonzero(counts)
    x, y = (columns + 0.5) / 32 - 1, 1 - (rows + 0.5) / 32
    inked = np.stack([x, y], axis=-1)[:, None]
    a, b = path[0, :-1].astype(float), path[0, 1:].astype(float)
    along = ((inked - a) * (b - a)).sum(-1) / np.maximum(((b - a) ** 2).sum(-1), 1e-12)
    nearest = a + np.clip(along, 0, 1)[..., None] * (b - a)
    assert (np.linalg.norm(inked - nearest, axis=-1).min(axis=1) < 1.5 / 32).all()
    for point in path[0, 1:]:  # and everywhere where it does: the ends of all pieces
        row, column = int(32 * (1 - point[1])), int(32 * (1 + point[0]))
        assert counts[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variation": "abrupt", "strength": 0.3, "period": 0.9, "cloud": 20, "activation": "relu"},
        {"variation": "smooth", "strength": 0.3, "period": 0.9, "features": (), "cloud": 3},
        {"bias": ((0.3, -0.2),)},
    ],
    ids=["constant", "abrupt", "smooth", "bias"],
)
def test_the_exported_python_gives_the_exported_numbers(name, changes):
    scene = EVERY[name]
    if "bias" in changes:
        changes = {"bias": changes["bias"] * scene.biases[0]}
    picture = Picture(replace(scene, **changes))
    table = json.loads(as_json(picture))
    found = {"__name__": "exported"}
    exec(compile(as_python(picture), "scene.py", "exec"), found)
    np.testing.assert_array_equal(found["y"].numpy(), table["y"])
    parts = {"verlet": "z", "leapfrog": "v"}
    if scene.integrator in parts:
        assert table[parts[scene.integrator]] is not None
    for part in "zv":
        assert (table[part] is None) == (part not in found)
        if part in found:
            np.testing.assert_array_equal(found[part].numpy(), table[part])


def test_the_exported_python_takes_the_least_damping_and_a_third_coordinate():
    for changes in (
        {"field": "antisymmetric", "damping": None},
        {"kernel": ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 0.5))},
    ):
        picture = Picture(replace(FIRST, **changes))
        found = {"__name__": "exported"}
        exec(compile(as_python(picture), "scene.py", "exec"), found)
        np.testing.assert_array_equal(found["y"].numpy(), picture.paths.y)


@pytest.mark.parametrize("preset", [PRESETS[1], PRESETS[-2]], ids=lambda preset: preset.key)
def test_every_export_is_what_it_says(preset):
    picture = Picture(preset.scene, preset.plane)
    contents = {name: write(picture) for name, (_, write) in EXPORTS.items()}
    assert contents["scene.png"].startswith(b"\x89PNG")
    assert (
        b"<svg" in contents["scene.svg"] and b"distance between features" in contents["scene.svg"]
    )
    assert json.loads(contents["scene.json"])["scene"]["depth"] == preset.scene.depth
    assert contents["scene.svg"] == EXPORTS["scene.svg"][1](picture)  # no clock in it


def test_what_grows_past_all_numbers_is_no_number_in_json():
    scene = replace(
        FIRST,
        kernel=((2.0, 0.0), (0.0, 2.0)),
        activation="identity",
        step_size=500.0,
        depth=103,
        features=((1e-3, 0.0),),
    )
    header, _ = unpacked(Picture(scene).as_bytes())
    assert header["verdict"]["grown"] is None and "10³⁰⁸" in header["verdict"]["what"]
    assert json.loads(as_json(Picture(scene)))["verdict"]["grown"] is None


@pytest.mark.parametrize("depth", [1, 300, 10_000])
def test_growth_past_all_numbers_between_two_looks_is_still_a_number(depth):
    """10¹² a layer at the origin, where the state stays finite."""
    scene = replace(FIRST, kernel=((1e6, 0.0), (0.0, 1e6)), step_size=1e6, features=((0.0, 0.0),))
    picture = Picture(replace(scene, depth=depth))
    np.testing.assert_allclose(picture.growth.largest[:, 0], 12.0 * picture.growth.layers)
    picture.as_bytes()


@pytest.mark.parametrize("name", EXPORTS)
def test_whatever_the_page_shows_can_be_exported(name):
    """The features are so far apart in the end that the ratio of their distances is no number."""
    picture = Picture(
        Scene(
            activation="relu",
            kernel=((2.0, 0.0), (0.0, 2.0)),
            step_size=2.5,
            depth=200,
            features=((0.1, 0.1), (0.2, 0.1)),
        )
    )
    header, _ = unpacked(picture.as_bytes())
    content = EXPORTS[name][1](picture)
    if name == "scene.json":
        assert json.loads(content)["verdict"] == header["verdict"]
        assert header["verdict"]["apart"] == [None, None]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 12])
def test_drawn_are_the_distances_of_the_first_features_in_the_colours_of_all_pairs(count):
    features = tuple((0.1 * number, 0.05 * number**2) for number in range(count))
    picture = Picture(replace(FIRST, features=features))
    header, arrays = unpacked(picture.as_bytes())
    (axes,) = [each for each in drawn(picture).axes if "distance" in each.get_title()]
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    wanted = {
        f"{a + 1}, {b + 1}": (COLOURS[(index + 3) % 8], arrays["distances"][index])
        for index, (a, b) in enumerate(pairs)
        if b < header["near"] == NEAR
    }
    assert {line.get_label() for line in axes.lines} == wanted.keys()
    for line in axes.lines:
        colour, values = wanted[line.get_label()]
        assert line.get_color() == colour
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-6)
    assert ("the first 4" in axes.get_title()) == (count > 4)


@pytest.mark.parametrize("cloud", [0, 300])
def test_features_that_explode_past_float32_are_drawn_where_they_are(cloud):
    """0.1 · 1.2¹⁰⁰⁰ ≈ 10⁷⁸: on the page's axes, which follow them, and in words."""
    kernel = ((2.0, 0.0), (0.0, 2.0))
    scene = replace(FIRST, activation="relu", kernel=kernel, step_size=0.1, depth=1000, cloud=cloud)
    picture = Picture(scene)
    header, arrays = unpacked(picture.as_bytes())
    paths = picture.paths.y.transpose(1, 0, 2)
    np.testing.assert_array_equal(arrays["paths"], paths[: header["features"]])
    assert 1e70 < np.abs(paths).max() < header["window"] == picture.window
    energy = picture.paths.energy[1][arrays["curve"].astype(int)].T
    np.testing.assert_array_equal(arrays["energy"], energy)
    assert np.abs(arrays["field"][:, :2]).max() > 0.9 * header["window"]
    if cloud:
        assert arrays["density"].any(axis=1).sum() > 100  # not the middle alone


def test_a_plane_at_the_end_of_all_numbers_is_drawn_to_its_edge():
    scene = replace(FIRST, activation="identity", kernel=((1.0, 0.0), (0.0, 1.0)), step_size=0.1)
    depth = int((np.log(3.4) + 308 * np.log(10)) / np.log(1.1))
    picture = Picture(replace(scene, depth=depth, features=((0.0, 0.5),)))
    header, arrays = unpacked(picture.as_bytes())
    assert picture.paths.y.max() > 1e307 and header["window"] == arrays["paths"].max() == 1e300


def test_every_layer_of_a_path_is_sent():
    """Every second layer of a feature that turns round at each would show one that stands still."""
    scene = replace(FIRST, activation="identity", kernel=((-2.0, 0.0), (0.0, -2.0)), step_size=1.0)
    picture = Picture(replace(scene, depth=4000))
    _, arrays = unpacked(picture.as_bytes())
    np.testing.assert_array_equal(arrays["layers"], np.arange(4001))
    assert (arrays["paths"][:, 1:] == -arrays["paths"][:, :-1]).all()


def test_distances_past_all_numbers_are_sent_as_none():
    """Coordinates of 10²³⁶ are finite, their squares are not."""
    scene = replace(FIRST, activation="identity", kernel=((1e6, 1.0), (0.0, 1e6)), step_size=0.1)
    picture = Picture(replace(scene, integrator="midpoint", depth=42))
    header, _ = unpacked(picture.as_bytes())
    assert header["verdict"]["apart"] == [None, None] and header["window"] > 1e150


def test_a_state_that_is_not_finite_is_an_error_with_its_layer():
    scene = replace(
        FIRST, activation="identity", kernel=((2.0, 0.0), (0.0, 2.0)), step_size=500.0, depth=200
    )
    with pytest.raises(ValueError, match="not finite after layer"):
        Picture(scene).as_bytes()
