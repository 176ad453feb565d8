"""Laws of resampling: constants stay, the outside stays outside, and what is near enough is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keelnet.data.resampling import planes, resampled, resampled_classes, space_at

SPACES = st.tuples(*[st.integers(2, 14)] * 3)
SPACINGS = st.tuples(*[st.floats(0.5, 4)] * 3)


@given(space=SPACES, spacing=SPACINGS, wanted=st.floats(0.5, 4))
@settings(max_examples=60, deadline=None)
def test_a_constant_inside_stays_one_and_zero_outside_stays_zero(space, spacing, wanted):
    x = np.zeros((2, *space), np.float32)
    x[:, space[0] // 2 :] = 3.0
    moved = resampled(x, spacing, wanted)
    assert moved.shape == (2, *space_at(space, spacing, wanted))
    assert set(np.unique(moved.round(4))) <= {0.0, 3.0}


@given(space=SPACES, spacing=SPACINGS, wanted=st.floats(0.5, 4))
@settings(max_examples=60, deadline=None)
def test_classes_keep_their_values_and_the_grid_of_the_image(space, spacing, wanted):
    classes = np.random.default_rng(0).integers(0, 4, space).astype(np.uint8)
    moved = resampled_classes(classes, spacing, wanted)
    assert moved.shape == space_at(space, spacing, wanted)
    assert set(np.unique(moved)) <= set(np.unique(classes))


@pytest.mark.parametrize("wanted", [2.0, 1.5, 0.7])
@pytest.mark.parametrize("side", [40, 41])
def test_tumours_stay_where_they_are_and_as_large(side, wanted):
    random = np.random.default_rng(0)
    shifts, sizes = [], []
    for _ in range(12):
        centre = (side - 1) / 2 + random.uniform(-2, 2, 3)
        away = np.indices((side,) * 3) - centre[:, None, None, None]
        classes = 3 * ((away**2).sum(0) < random.uniform(6, 13) ** 2).astype(np.uint8)
        moved = resampled_classes(classes, (1.0,) * 3, wanted)
        voxel = side / np.array(moved.shape)
        sizes.append((moved > 0).sum() * voxel.prod() / (classes > 0).sum())
        centres = [
            ((np.argwhere(each) + 0.5) * width).mean(0)
            for each, width in ((classes, 1.0), (moved, voxel))
        ]
        shifts.append(centres[1] - centres[0])
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.05)
    assert np.mean(sizes) == pytest.approx(1, abs=0.07)


def test_a_voxel_is_of_the_class_that_has_most_of_its_tumour():
    classes = np.zeros((4, 2, 2), np.uint8)
    classes[:2] = [[[1, 1], [1, 2]], [[2, 3], [3, 0]]]  # 7 of 8 are tumour, and 3 of them class 1
    classes[2:] = [[[3, 3], [3, 0]], [[0, 0], [0, 0]]]  # 5 of 8 are none
    assert resampled_classes(classes, (1.0,) * 3, 2.0).ravel().tolist() == [1, 0]


def test_near_enough_is_the_same():
    x = np.random.default_rng(0).standard_normal((1, 5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(resampled(x, (1.01, 0.99, 1.0), 1.0), x)
    classes = (x[0] > 0).astype(np.uint8)
    np.testing.assert_array_equal(resampled_classes(classes, (1.01, 0.99, 1.0), 1.0), classes)


def test_means_are_taken_where_voxels_grow():
    x = np.random.default_rng(0).uniform(1, 2, (1, 8, 4, 6)).astype(np.float32)
    cells = x.reshape(1, 4, 2, 2, 2, 3, 2).mean((2, 4, 6))
    np.testing.assert_allclose(resampled(x, (1, 1, 1), 2.0), cells, rtol=1e-5)


def mean_of_parts(values, sides):
    """Means over equal parts by their definition: every voxel in as many pieces as parts are wanted."""
    for axis, side in enumerate(sides, 1):
        pieces = np.repeat(np.moveaxis(values, axis, -1), side, -1)
        pieces = pieces.reshape(*pieces.shape[:-1], side, -1)
        values = np.moveaxis(pieces.mean(-1), -1, axis)
    return values


@given(space=SPACES, wanted=st.floats(1.05, 6), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_means_are_those_of_parts_of_one_size_also_where_sides_do_not_divide(space, wanted, seed):
    x = np.random.default_rng(seed).uniform(1, 2, (2, *space))
    moved = resampled(x, (1.0,) * 3, wanted)
    np.testing.assert_allclose(moved, mean_of_parts(x, moved.shape[1:]), rtol=1e-5)
    assert moved.mean() == pytest.approx(x.mean(), rel=1e-5)


@given(old=st.integers(4, 160), wanted=st.floats(1.05, 4))
@settings(max_examples=60, deadline=None)
def test_a_ramp_is_what_it_is_where_the_new_voxels_are(old, wanted):
    ramp = np.broadcast_to(np.arange(old)[:, None, None] + 0.5, (1, old, 2, 2))
    found = resampled(ramp, (1.0, wanted, wanted), wanted)[0, :, 0, 0]
    centres = (np.arange(len(found)) + 0.5) * old / len(found)
    # A voxel is one value: where a part cuts it, the ramp is off by an eighth of a voxel at most.
    np.testing.assert_allclose(found, centres, atol=0.126)


@pytest.mark.parametrize("box", [(40, 41, 39), (37, 43, 41)])
def test_a_tumour_near_an_edge_stays_where_it_is(box):
    for place in (9.3, 30.6):
        away = np.indices(box) + 0.5 - place
        classes = ((away**2).sum(0) < 49).astype(np.uint8)
        moved = resampled_classes(classes, (1.0,) * 3, 2.0)
        voxel = np.array(box) / moved.shape
        shift = ((np.argwhere(moved) + 0.5) * voxel).mean(0) - (np.argwhere(classes) + 0.5).mean(0)
        np.testing.assert_allclose(shift, 0, atol=0.12)


@pytest.mark.parametrize("space", [(7, 9, 11), (3, 2, 20), (5, 5, 5)])
def test_planes_are_the_linear_interpolation_of_the_whole(space):
    import torch

    values = np.random.default_rng(0).standard_normal((3, 5, 6, 4)).astype(np.float32)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None], space, mode="trilinear", align_corners=False
    )[0].numpy()
    found = np.concatenate(list(planes(values, space)), axis=1)
    np.testing.assert_allclose(found, whole, atol=1e-5)
