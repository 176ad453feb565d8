"""Laws of grids: however the axes of its files are turned, a case is the same; other grids are refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scans import RAS, SHAPE, volumes, write, write_case, write_decathlon

from keelnet.data.cases import find_cases
from keelnet.data.grids import AS_IT_IS, turn_between, turned
from keelnet.data.prepared import content_of
from keelnet.data.scans import read_scan, settle
from keelnet.data.volumes import Geometry

TURNS = [
    np.column_stack([axes, signs]).astype(np.float64)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def affine_at(degrees, sides=(1.0, 1.2, 3.0)):
    angle = np.deg2rad(degrees)
    found = np.diag([*sides, 1.0])
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found[:2, :2] = turn @ found[:2, :2]
    found[:3, 3] = -30, 12, 5
    return found


def turn_file(path, turn):
    """The same voxels in another order of axes."""
    image = nibabel.load(path)
    nibabel.save(image.as_reoriented(turn), path)


def read(folder):
    found = settle(find_cases([folder]))
    assert not found.refused
    return read_scan(found.cases[0], found.convention)


@pytest.mark.parametrize("degrees", [0, 20, 45])
def test_every_turn_of_a_grid_is_found_again(degrees):
    affine, values = affine_at(degrees), volumes()[0]
    one = Geometry(SHAPE, affine, None)
    for turn in TURNS:
        image = nibabel.Nifti1Image(values, affine).as_reoriented(turn)
        other = Geometry(image.shape, image.affine, None)
        back = turn_between(Path("one"), one, Path("other"), other)
        np.testing.assert_array_equal(turned(image.get_fdata(), back), values)
        alike = other.turned(back)
        assert alike.shape == SHAPE and alike.distance(one) < 1e-9


@pytest.mark.parametrize("degrees", [0, 20, 45])
@pytest.mark.parametrize("seed", range(4))
def test_files_whose_axes_are_turned_are_the_same_case(degrees, seed, tmp_path):
    """The first alone or all of them, labels included; where it lies at 45° the first stays as it is."""
    folder = write_case(tmp_path, "x", affine=affine_at(degrees))
    before = read(folder)
    random = np.random.default_rng(seed)
    names = ("flair", "t1", "t1ce", "t2", "seg")[degrees == 45 :]
    for name in names[: 1 if seed == 0 else None]:
        turn_file(folder / f"x_{name}.nii.gz", TURNS[random.integers(1, len(TURNS))])
    after = read(folder)
    np.testing.assert_array_equal(after.x, before.x)
    np.testing.assert_array_equal(after.classes, before.classes)
    assert content_of(after) == content_of(before)  # by which prepared cases are known
    first = nibabel.load(folder / "x_flair.nii.gz")
    assert after.geometry.back(after.x[0]).shape == first.shape
    np.testing.assert_array_equal(after.geometry.back(after.x[0]), first.get_fdata())


def test_labels_of_four_volumes_may_be_turned(tmp_path):
    write_decathlon(tmp_path, "A_1")
    before = read(tmp_path)
    turn_file(tmp_path / "labelsTr" / "A_1.nii.gz", TURNS[-1])
    np.testing.assert_array_equal(read(tmp_path).classes, before.classes)


def test_files_that_agree_as_they_are_are_not_turned(tmp_path):
    """At 45° rounding decides which axis of a file is called right: the first file's word holds for all."""
    folder = write_case(tmp_path, "x", affine=affine_at(45 - 1e-4, (2, 2, 2)))
    write(folder / "x_t1.nii.gz", volumes()[1], affine_at(45 + 1e-4, (2, 2, 2)))
    directions = {nibabel.aff2axcodes(nibabel.load(path).affine) for path in folder.iterdir()}
    assert len(directions) == 2
    scan = read(folder)
    np.testing.assert_array_equal(scan.geometry.back(scan.x[1]), volumes()[1])


def test_other_grids_are_refused_however_their_axes_lie():
    one = Geometry(SHAPE, RAS, None)
    turn = TURNS[-1]
    image = nibabel.Nifti1Image(volumes()[0], RAS).as_reoriented(turn)
    shifted = image.affine.copy()
    shifted[0, 3] += 1.5
    path = Path("t1")
    other = Geometry(image.shape, shifted, None)
    with pytest.raises(ValueError, match=r"t1, its axes turned alike, lie up to 1.50 mm apart"):
        turn_between(path, one, path, other)
    with pytest.raises(ValueError, match="its axes turned alike, 9×8×6; register them first"):
        turn_between(path, one, path, replace(other, shape=(6, 8, 9)))
    for degrees in (30, 45):
        with pytest.raises(ValueError, match="mm apart|has shape"):
            turn_between(path, one, path, Geometry(SHAPE, affine_at(degrees, (2, 2, 2)), None))
    assert (turn_between(path, one, path, one) == AS_IT_IS).all()
