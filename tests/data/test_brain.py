"""Laws of the brain maps."""

from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keelnet.data import BrainMaps, brain_maps, load_icbm152

TISSUES = ("csf", "gm", "wm")


@pytest.fixture(scope="module")
def maps() -> BrainMaps:
    return load_icbm152()


def millilitres(maps: BrainMaps, values: np.ndarray) -> float:
    return float(values.sum()) * maps.voxel_size**3 / 1000


def check_probabilities(maps: BrainMaps) -> None:
    total = maps.csf + maps.gm + maps.wm
    np.testing.assert_allclose(total, maps.mask, atol=1e-6)
    for name in (*TISSUES, "t1"):
        values = getattr(maps, name)
        assert values.dtype == np.float32
        assert values.min() >= 0 and values.max() <= 1
        assert not values[~maps.mask].any()


def test_maps_lie_in_range_and_sum_to_the_mask(maps):
    check_probabilities(maps)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(1, 6))
def test_any_maps_sum_to_the_mask(seed, side):
    random = np.random.default_rng(seed)
    t1, gm, wm = random.random((3, side, side, side), dtype=np.float32)
    made = brain_maps(np.where(t1 > 0.3, t1, 0), gm, wm, np.eye(4))
    check_probabilities(made)
    assert np.array_equal(made.labels > 0, made.mask)


def test_volumes_are_those_of_an_adult_head(maps):
    # Adults hold roughly 600-800 ml of GM and 450-600 ml of WM in 1.3-1.7 l; MNI space is larger
    # than most heads by about a quarter, and skull stripping takes most of the CSF outside.
    assert 1600 < millilitres(maps, maps.mask) < 2100
    assert 800 < millilitres(maps, maps.gm) < 1100
    assert 550 < millilitres(maps, maps.wm) < 750
    assert 100 < millilitres(maps, maps.csf) < 400


def test_template_is_left_right_symmetric(maps):
    for name in (*TISSUES, "t1", "mask"):
        values = getattr(maps, name)
        assert np.array_equal(values, values[::-1])


def test_grid_is_ras_with_the_midline_at_zero(maps):
    assert maps.t1.shape == (99, 117, 95)
    assert maps.voxel_size == 2
    np.testing.assert_array_equal(maps.affine[:3, :3], 2 * np.eye(3))
    middle = maps.affine @ [49, 0, 0, 1]
    assert middle[0] == 0


def test_front_and_top_are_where_the_axes_say(maps):
    # More than 40 mm below the origin lie the cerebellum, behind, and little of the temporal poles.
    low = maps.mask[:, :, :16]
    behind, front = low[:, :67].sum(), low[:, 67:].sum()
    assert behind > 2 * front
    assert maps.mask[:, :, -10:].sum() == 0


def test_t1_orders_the_tissues(maps):
    csf, gm, wm = (np.median(maps.t1[maps.labels == label]) for label in (1, 2, 3))
    assert csf < gm - 0.1 < wm - 0.2
    assert 0.8 < wm < 1


def test_labels_follow_the_likeliest_tissue(maps):
    labels = maps.labels
    assert labels.dtype == np.uint8
    assert np.array_equal(labels > 0, maps.mask)
    for label, name in enumerate(TISSUES, start=1):
        others = np.max([getattr(maps, other) for other in TISSUES if other != name], axis=0)
        assert np.all(getattr(maps, name)[labels == label] >= others[labels == label])


def test_loading_twice_gives_the_same(maps):
    again = load_icbm152()
    assert all(np.array_equal(getattr(maps, n), getattr(again, n)) for n in (*TISSUES, "t1"))


def test_file_is_small_and_its_notice_whole():
    folder = resources.files("keelnet.data")
    assert len((folder / "icbm152_2mm.npz").read_bytes()) < 1_000_000
    notice = " ".join((folder / "ICBM152-NOTICE.txt").read_text(encoding="utf-8").split())
    for part in (
        "Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill",
        "Permission to use, copy, modify, and distribute this software and its documentation for "
        "any purpose and without fee is hereby granted, provided that the above copyright notice "
        "appear in all copies.",
        'It is provided "as is" without express or implied warranty.',
        "misuse of this software package.",
    ):
        assert part in notice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gm": np.zeros((2, 2, 2), np.float32)}, "mask's grid"),
        ({"t1": np.full((99, 117, 95), 2, np.float32)}, "must lie in"),
        ({"t1": np.full((99, 117, 95), np.nan, np.float32)}, "must lie in"),
        ({"affine": np.diag([1.0, 1.0, 3.0, 1.0])}, "cubic voxels"),
    ],
)
def test_impossible_maps_are_refused(maps, change, message):
    with pytest.raises(ValueError, match=message):
        replace(maps, **change)
