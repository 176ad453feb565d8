"""Laws of the region scores: empty regions, known distances, lost and invented lesions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from keelnet.analysis.regions import MISSED, SMALLEST, hausdorff95, region_dice, region_scores
from keelnet.data.conventions import EDEMA, ENHANCING, NECROSIS
from keelnet.data.volumes import Geometry

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


@pytest.mark.parametrize("shares", [(0.3, 0.5), (0.01, 0.9), (0, 0.5), (0.5, 0), (0, 0), (1, 1)])
def test_dice_is_monais(shares):
    from monai.metrics.meandice import compute_dice

    random = np.random.default_rng(0)
    masks = [random.random(SHAPE) < share for share in shares]
    volumes = [torch.from_numpy(mask)[None, None] for mask in masks]
    expected = compute_dice(*volumes, include_background=True, ignore_empty=False)
    assert region_dice(*masks) == pytest.approx(float(expected), abs=1e-6)


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


def test_one_far_voxel_of_153_does_not_decide():
    far = cube((25, 25, 25), 1, onto=ONE)
    assert hausdorff95(far > 0, ONE > 0, (1, 1, 1)) == hausdorff95(ONE > 0, far > 0, (1, 1, 1)) == 0


def test_what_only_one_of_both_has_is_as_far_from_either():
    """From the other's surface to its own there is no distance at all."""
    two = cube((20, 20, 20), 6, onto=ONE)
    distance = hausdorff95(two > 0, ONE > 0, (1, 1, 1))
    assert distance == hausdorff95(ONE > 0, two > 0, (1, 1, 1)) > 10


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


def lesion_by_lesion(found, true, spacing):
    """The rules as they are written, every lesion in the whole volume."""
    cube = np.ones((3, 3, 3))
    grown = ndimage.binary_dilation(true, ndimage.generate_binary_structure(3, 2), 3)
    joined, count = ndimage.label(grown, cube)
    parts, pieces = ndimage.label(found, cube)
    touched, pairs = set(), []
    for lesion in range(1, count + 1):
        near = {*np.unique(parts[joined == lesion]).tolist()} - {0}
        touched |= near
        own, guess = true & (joined == lesion), np.isin(parts, [*near])
        if own.sum() * np.prod(spacing) > SMALLEST:
            pairs.append((region_dice(guess, own), hausdorff95(guess, own, spacing)))
    pairs += [(0.0, MISSED)] * (pieces - len(touched))
    return np.mean(pairs, axis=0) if pairs else (1.0, 0.0)


def blobs(random, shape):
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), random.uniform(0.5, 1.5))
    return smooth > np.quantile(smooth, random.choice([0.7, 0.9, 0.97, 1.0]))


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(*[st.integers(2, 18)] * 3),
    spacing=st.tuples(*[st.sampled_from([1.0, 1.3, 3.0])] * 3),
)
@settings(max_examples=25, deadline=None)
def test_lesions_are_scored_as_in_the_whole_volume(seed, shape, spacing):
    random = np.random.default_rng(seed)
    true = blobs(random, shape)
    found = blobs(random, shape) | (true & blobs(random, shape))
    score = scores(3 * found.astype(np.uint8), 3 * true.astype(np.uint8), spacing)["ET"]
    assert (score.lesion_dice, score.lesion_hd95) == tuple(lesion_by_lesion(found, true, spacing))


@pytest.mark.parametrize("angle", range(1, 45))
def test_what_is_just_as_large_is_not_decided_by_rounding(angle):
    """50 voxels of 1 mm, however the grid lies, are not more than 50 mm³, and 51 are."""
    affine, turn = np.eye(4), np.deg2rad(angle)
    affine[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    spacing = Geometry(SHAPE, affine.astype(np.float32).astype(np.float64), None).spacing
    speck = np.zeros((9, 9, 9), np.uint8)
    speck[2:7, 2:7, 2:4] = ENHANCING
    assert scores(np.zeros_like(speck), speck, spacing)["ET"].lesion_dice == 1
    speck[2, 2, 4] = ENHANCING
    assert scores(np.zeros_like(speck), speck, spacing)["ET"].lesion_dice == 0


def test_the_volume_of_a_voxel_may_be_said():
    """On a sheared grid it is not the product of the sides."""
    speck = cube((20, 20, 20), 4)
    found = region_scores(speck, speck, (1, 1, 1), voxel_ml=0.0005)["ET"]
    assert found.true_ml == found.predicted_ml == pytest.approx(64 * 0.0005)
    assert region_scores(NOTHING, speck, (1, 1, 1), voxel_ml=0.0005)["ET"].lesion_dice == 1
    assert region_scores(NOTHING, speck, (1, 1, 1))["ET"].lesion_dice == 0


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        region_scores(ONE, ONE[1:], (1, 1, 1))
