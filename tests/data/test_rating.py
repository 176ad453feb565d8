"""Raters: edges move by less than a voxel or two, the same way for a seed, and no more than asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import ndimage

from keelnet.data.rating import Rater
from keelnet.data.synthetic import Synthesis

TRUTH = np.zeros((20, 18, 16), np.uint8)
TRUTH[4:15, 5:14, 3:12] = 2
TRUTH[7:12, 7:12, 5:10] = 3


def rated(rater, seed=0, truth=TRUTH):
    return rater.drawn(truth, np.random.default_rng(seed))


def test_without_deviation_and_without_tumour_it_is_the_truth():
    np.testing.assert_array_equal(rated(Rater(deviation=0)), TRUTH)
    nothing = np.zeros_like(TRUTH)
    np.testing.assert_array_equal(rated(Rater(), truth=nothing), nothing)


@given(some.floats(0.3, 1.0), some.floats(1, 6), some.integers(0, 99))
def test_only_edges_move_and_no_farther_than_twice_the_deviation(deviation, spacing, seed):
    found = rated(Rater(deviation, spacing), seed)
    reach = int(np.floor(2 * deviation + 0.5))
    near = np.ones((2 * reach + 1,) * 3)
    for label in (2, 3):
        inside = label == TRUTH
        sure = ndimage.binary_erosion(inside, near) if reach else inside
        possible = ndimage.binary_dilation(inside, near) if reach else inside
        assert (found[sure] == label).all() and not (found[~possible] == label).any()


def test_raters_of_one_scan_differ_as_much_as_readers_do():
    """Enough to matter, not beyond recognition."""
    one, other = (rated(Rater(), seed) > 0 for seed in (1, 2))
    assert 0.85 < 2 * (one & other).sum() / (one.sum() + other.sum()) < 0.97
    np.testing.assert_array_equal(rated(Rater(), 1), rated(Rater(), 1))


def test_a_case_is_labelled_by_its_rater_and_imaged_as_it_is():
    exact, read = (Synthesis(2, 4, rater=rater).case(0) for rater in (Rater(deviation=0), Rater()))
    np.testing.assert_array_equal(exact.x, read.x)
    moved = exact.lesions.classes != read.lesions.classes
    assert 0 < moved.sum() < 0.5 * (exact.lesions.classes > 0).sum()
    assert not read.lesions.classes[read.x[0] == 0].any()


@pytest.mark.parametrize("settings", [(-0.1, 3), (2.5, 3), (0.4, 0.5), (float("nan"), 3)])
def test_impossible_raters_are_refused(settings):
    with pytest.raises(ValueError, match="a rater's deviation must lie"):
        Rater(*settings)
