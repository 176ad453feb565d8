"""The round trip: labels come back voxel by voxel in the file's own axes, space, header and convention."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import NEW, OLD, SHAPE
from scipy.spatial.transform import Rotation
from torch import nn

from keelnet.experiments import overlays
from keelnet.experiments.segment import segment
from keelnet.experiments.segmenting import Segmenting
from keelnet.experiments.tiles import Tiling

# How files are named, and what necrosis, edema and enhancing tumour are called in them.
SETS = {
    "2021": (OLD, "_", (1, 2, 4)),
    "2023": (NEW, "-", (1, 2, 3)),
    "Decathlon": (None, "", (2, 1, 3)),
}
ANGLES = st.tuples(*[st.floats(-45, 45)] * 3)
SIDES = st.tuples(*[st.sampled_from([0.5, 1.0, 1.2, 5.0])] * 3)


class Painted(nn.Module):
    """Whole tumour, core and enhancing tumour are where FLAIR, T1 and T1ce are bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * x[:, :3]


def write_set(folder, which, found, affine, sform):
    """A case in which ``found`` is painted, its axes as the affine says; four files, or one."""
    words, separator, _ = SETS[which]
    regions = (found > 0, np.isin(found, (1, 3)), found == 3, found == 2)
    x = [np.where(region, 800, 200).astype(np.int16) for region in regions]
    files = (
        {folder / "imagesTr" / "a.nii.gz": np.stack(x, -1)}
        if words is None
        else {
            folder / f"a{separator}{word}.nii.gz": each
            for word, each in zip(words.values(), x, strict=True)
        }
    )
    for path, values in files.items():
        path.parent.mkdir(exist_ok=True)
        image = nibabel.Nifti1Image(values, affine)
        image.set_qform(affine, 1)
        image.set_sform(affine if sform else None, 2 if sform else 0)
        image.header.set_xyzt_units("mm", "sec")
        image.header["descrip"] = b"as the scanner wrote it"
        nibabel.save(image, path)
    return nibabel.load(next(iter(files)))


@given(
    which=st.sampled_from(sorted(SETS)),
    axes=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    angles=ANGLES,
    sides=SIDES,
    sform=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_labels_come_back_voxel_by_voxel(which, axes, signs, angles, sides, sform, seed):
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = (turn @ np.diag(signs))[:, axes] * sides
    affine[:3, 3] = (-90, 126, -72)
    found = np.random.default_rng(seed).choice(4, SHAPE)
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlays, "planes_picture", lambda scan, classes: b"")
        folder = Path(place)
        (folder / "in").mkdir()
        given = write_set(folder / "in", which, found, affine, sform)
        segmenting = Segmenting(Painted(), tiling=Tiling((16, 16, 16), 4, 8))
        (done,) = segment(segmenting, [folder / "in"], folder / "out")
        written = nibabel.load(folder / "out" / done.file)
        np.testing.assert_array_equal(np.asarray(written.dataobj), np.array([0, *SETS[which][2]])[found])  # fmt: skip
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(written.affine, given.affine)
        for key in ("qform_code", "sform_code", "xyzt_units", "descrip"):
            assert written.header[key] == given.header[key], key
        np.testing.assert_array_equal(written.header["pixdim"][:4], given.header["pixdim"][:4])
        ml = (found > 0).sum() * np.prod(sides) / 1000
        assert done.regions_ml["WT"] == pytest.approx(ml, abs=1e-3)
