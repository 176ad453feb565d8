"""Laws of the heads: each strength acts, and without any a head is the atlas, as it is or mirrored."""

from dataclasses import fields

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from keelnet.data.brain import brain_maps, load_icbm152
from keelnet.data.subjects import Heads

ATLAS = load_icbm152(4)
STILL = {"rotation": 0.0, "scale": 0.0, "displacement": 0.0}


def drawn(**strengths):
    """The draws of a generator do not depend on the strengths: two heads of one seed differ by these alone."""
    return Heads(**STILL | strengths).drawn(ATLAS, np.random.default_rng(1))


def test_every_strength_is_tried():
    assert {field.name for field in fields(Heads)} - {"spacing"} == STILL.keys()


def test_without_strength_a_head_is_the_atlas_or_its_mirror_image():
    sides = {
        side
        for seed in range(4)
        for side in (1, -1)
        if np.allclose(
            Heads(**STILL).drawn(ATLAS, np.random.default_rng(seed)).wm, ATLAS.wm[::side], atol=1e-3
        )
    }
    assert sides == {1, -1}


@pytest.mark.parametrize("name", STILL)
def test_each_strength_alone_makes_another_head(name):
    head, still = drawn(**{name: getattr(Heads(), name)}), drawn()
    for part in ("mask", "wm", "t1"):
        there, here = (getattr(each, part).astype(float) for each in (head, still))
        assert np.abs(there - here).max() > 0.2


def ramps(voxel, extent=(112.0, 120.0, 96.0)):
    """Maps that say where their voxels lie: of a head drawn from them it is seen where each was taken from."""
    shape = tuple(round(each / voxel) for each in extent)
    gm, wm, t1 = (
        (at + 1) / (side + 1) * scale
        for at, side, scale in zip(np.indices(shape), shape, (0.5, 0.5, 1.0), strict=True)
    )
    affine = np.diag([voxel, voxel, voxel, 1.0])
    return brain_maps(*(each.astype(np.float32) for each in (t1, gm, wm)), affine)


def taken(atlas, seed, **strengths):
    """Where each voxel and where it was taken from, in mm from the middle, (3, voxels); only those from inside."""
    head = Heads(**STILL | strengths).drawn(atlas, np.random.default_rng(seed))
    sides = np.array(head.mask.shape)[:, None]
    maps = np.stack([2 * head.gm, 2 * head.wm, head.t1])[:, head.mask]
    here = np.argwhere(head.mask).T - (sides - 1) / 2
    return here * atlas.voxel_size, (maps * (sides + 1) - (sides + 1) / 2) * atlas.voxel_size


def matrices(**strengths):
    """Of several heads the linear map to where they were taken from, without its mirror."""
    atlas = ramps(4.0)
    for seed in range(8):
        here, there = taken(atlas, seed, **strengths)
        matrix = np.linalg.lstsq(here.T, there.T, rcond=None)[0].T
        np.testing.assert_allclose(matrix @ here, there, atol=0.01)
        yield matrix @ np.diag([np.sign(np.linalg.det(matrix)), 1, 1])


def test_heads_are_turned_by_angles_up_to_so_many_degrees():
    rotation = Heads().rotation
    angles = [Rotation.from_matrix(each).as_euler("xyz", degrees=True) for each in matrices(rotation=rotation)]  # fmt: skip
    assert 0.8 * rotation < np.abs(angles).max() < rotation + 0.01


def test_heads_are_scaled_by_up_to_this_fraction():
    scale = Heads().scale
    found = np.stack([*matrices(scale=scale)]) - np.eye(3)
    assert np.abs(found[:, ~np.eye(3, dtype=bool)]).max() < 1e-4
    assert 0.8 * scale < np.abs(found).max() < scale + 1e-4


@pytest.mark.parametrize("voxel", [2.0, 4.0])
def test_heads_are_warped_by_so_many_mm_over_so_many(voxel):
    """The displacement is smooth, deviates by its strength, is cut off at twice that, and steeper over less space."""
    atlas, steepness = ramps(voxel), []
    for spacing in (20.0, 40.0):
        moved = []
        for seed in (1, 2):
            here, there = taken(atlas, seed, displacement=3.0, spacing=spacing)
            mirror = np.diag([np.sign((here[0] * there[0]).sum()), 1, 1])
            moved.append(there - mirror @ here)
        assert np.abs(np.concatenate(moved, 1)).max() < 6.01
        np.testing.assert_allclose(np.concatenate(moved, 1).std(1), 3.0, rtol=0.15)
        beside = np.diff(here[2]) == voxel  # voxels above each other follow in this order
        steepness.append(np.sqrt(np.square(np.diff(moved[-1])[:, beside] / voxel).mean()))
    assert steepness[0] == pytest.approx(2 * steepness[1], rel=0.25)
    assert 1.5 * 3.0 / 40.0 < steepness[1] < 4.0 * 3.0 / 40.0
