"""Laws of the region scores: empty regions, known distances, lost and invented lesions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keelnet.analysis.regions import MISSED, hausdorff95, region_scores
from keelnet.data.conventions import EDEMA, ENHANCING, NECROSIS

SHAPE = (30, 30, 30)


def cube(start, side, label=ENHANCING, onto=None):
    classes = np.zeros(SHAPE, np.uint8) if onto is None else onto.copy()
    classes[tuple(slice(at, at + side) for at in start)] = label
    return classes


NOTHING = np.zeros(SHAPE, np.uint8)
ONE = cube((3, 3, 3), 6)


def scores(found, true, spacing=(1, 1, 1)):
    return region_scores(found, true, spacing)


def test_a_perfect_prediction_and_empty_ones():
    for region in scores(ONE, ONE).values():
        assert (region.dice, region.hd95, region.lesion_dice, region.lesion_hd95) == (1, 0, 1, 0)
        assert region.sensitivity == region.specificity == 1
        assert region.predicted_ml == pytest.approx(6**3 / 1000)
    for region in scores(NOTHING, NOTHING).values():
        assert (region.dice, region.hd95, region.lesion_dice, region.lesion_hd95) == (1, 0, 1, 0)
        assert math.isnan(region.sensitivity)
    for found, true in ((ONE, NOTHING), (NOTHING, ONE)):
        region = scores(found, true)["ET"]
        assert (region.dice, region.hd95) == (0, MISSED)
        assert (region.lesion_dice, region.lesion_hd95) == (0, MISSED)


def test_regions_overlap_as_the_convention_says():
    true = cube((5, 5, 5), 3, NECROSIS, cube((4, 4, 4), 5, ENHANCING, cube((2, 2, 2), 9, EDEMA)))
    found = np.where(true == EDEMA, 0, true).astype(np.uint8)
    found[found == NECROSIS] = ENHANCING
    result = scores(found, true)
    assert result["WT"].dice == pytest.approx(2 * 125 / (125 + 729))
    assert result["TC"].dice == 1
    assert result["ET"].dice == pytest.approx(2 * (125 - 27) / (125 + 125 - 27))
    assert result["ET"].sensitivity == 1 and result["WT"].specificity == 1


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 2, 3)])
def test_a_shift_is_its_own_distance(spacing):
    for axis in range(3):
        moved = np.roll(ONE, 2, axis)
        distance = hausdorff95(moved > 0, ONE > 0, spacing)
        assert distance == pytest.approx(2 * spacing[axis])


def test_lesions_that_are_lost_or_invented_count_and_specks_of_the_truth_do_not():
    two = cube((20, 20, 20), 5, onto=ONE)
    lost = scores(ONE, two)["ET"]
    assert lost.lesion_dice == pytest.approx(0.5)
    assert lost.lesion_hd95 == pytest.approx(MISSED / 2)
    invented = scores(two, ONE)["ET"]
    assert invented.lesion_dice == pytest.approx(0.5)
    speck = cube((20, 20, 20), 3, onto=ONE)
    assert scores(speck, ONE)["ET"].lesion_dice == pytest.approx(0.5)
    assert scores(ONE, speck)["ET"].lesion_dice == 1
    assert scores(ONE, speck)["ET"].dice < 1


@pytest.mark.parametrize("gap", range(1, 9))
def test_parts_that_three_dilations_join_are_one_lesion(gap):
    two = cube((3, 3, 9 + gap), 6, onto=ONE)
    found = scores(ONE, two)["ET"]
    assert found.lesion_dice == pytest.approx(found.dice if gap <= 6 else 0.5)
    assert 0.6 < found.dice < 0.7


@pytest.mark.parametrize(("spacing", "counted"), [((1, 1, 1), False), ((1, 1, 2), True)])
def test_small_is_what_has_few_cubic_millimetres(spacing, counted):
    speck = cube((20, 20, 20), 3, onto=ONE)  # 27 voxels
    assert scores(ONE, speck, spacing)["ET"].lesion_dice == pytest.approx(0.5 if counted else 1)


def test_what_lies_within_the_dilation_is_of_the_lesion():
    near = cube((11, 3, 3), 2, onto=ONE)  # the third voxel beside it
    far = cube((12, 3, 3), 2, onto=ONE)
    assert scores(near, ONE)["ET"].lesion_dice == pytest.approx(scores(near, ONE)["ET"].dice)
    assert scores(far, ONE)["ET"].lesion_dice == pytest.approx(0.5)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        region_scores(ONE, ONE[1:], (1, 1, 1))
