"""Laws of volumes: every type of number is read as it was meant, what is damaged is refused in one sentence."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scans import RAS, SHAPE, volumes, write

from keelnet.data.volumes import is_volume, read_geometry, read_voxels, stem_of

KINDS = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")  # fmt: skip


def refusal(path) -> str:
    """The one sentence that both readers give at the latest when the voxels are read."""
    with pytest.raises(ValueError, match=path.name) as caught:
        read_geometry(path)
        read_voxels(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_number_is_read(kind, suffix, tmp_path):
    values = (volumes()[0] / 8).astype(kind)
    path = tmp_path / f"x{suffix}"
    nibabel.save(nibabel.Nifti1Image(values, RAS, dtype=np.dtype(kind)), path)
    assert is_volume(path) and stem_of(path) == "x" and read_geometry(path)[1] == SHAPE
    found = read_voxels(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_numbers_are_scaled_back(suffix, tmp_path):
    image = nibabel.Nifti1Image(volumes()[0], RAS)
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / f"x{suffix}")
    assert nibabel.load(tmp_path / f"x{suffix}").dataobj.slope != 1
    found = read_voxels(tmp_path / f"x{suffix}")
    np.testing.assert_allclose(found, volumes()[0], atol=900 / 2**16)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("kind", "step"), [("uint8", 4), ("int16", 0.02), ("int32", 1e-4)])
def test_what_is_0_is_0_in_whole_numbers_with_an_intercept(kind, step, suffix, tmp_path):
    """The air is no brain: a scan is taken for brain where it is not 0."""
    values = volumes()[0] - np.float32(99.7) * (volumes()[0] > 0)
    image = nibabel.Nifti1Image(values, RAS)
    image.set_data_dtype(kind)
    nibabel.save(image, path := tmp_path / f"x{suffix}")
    assert nibabel.load(path).dataobj.inter and nibabel.load(path).get_fdata()[0].all()
    found = read_voxels(path)
    assert not found[0].any() and np.abs(values[found == 0]).max() < step
    np.testing.assert_allclose(found, values, atol=step)


def test_whole_numbers_that_never_come_near_0_stay_as_they_are(tmp_path):
    values = volumes()[0] + np.float32(5000)
    image = nibabel.Nifti1Image(values, RAS)
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "x.nii")
    np.testing.assert_allclose(read_voxels(tmp_path / "x.nii"), values, atol=0.02)


def test_nifti_2_is_read(tmp_path):
    nibabel.save(nibabel.Nifti2Image(volumes()[0], RAS), tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_voxels(tmp_path / "x.nii.gz"), volumes()[0])


def test_colours_and_complex_numbers_are_no_scan(tmp_path):
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "colours (RGB)" in refusal(write(tmp_path / "x.nii.gz", colours))
    assert "complex64" in refusal(write(tmp_path / "y.nii", np.ones(SHAPE, np.complex64)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (nibabel.AnalyzeImage, "x.img"),
        (nibabel.Nifti1Pair, "x.img"),
        (nibabel.MGHImage, "x.mgz"),
    ],
)
def test_other_formats_are_to_be_converted(kind, name, tmp_path):
    nibabel.save(kind(volumes()[0], RAS), tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is .*, not NIfTI; convert it first"):
        read_geometry(tmp_path / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("volumes") / "x.nii.gz", volumes()[0])


@given(data=st.data())
def test_a_compressed_file_cut_off_anywhere_is_refused(whole, data):
    content = whole.read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    path = whole.with_name("cut.nii.gz")
    path.write_bytes(content[:length])
    refusal(path)


@given(data=st.data())
def test_a_damaged_byte_is_noticed(whole, data):
    """The check sum tells, wherever the damage lies: what is read is what was written, or nothing."""
    content = bytearray(whole.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = whole.with_name("damaged.nii.gz")
    path.write_bytes(content)
    try:
        found = read_voxels(path)
    except ValueError:
        return
    np.testing.assert_array_equal(found, volumes()[0])


def with_header(path, **changes):
    """A file whose header says something else than it holds."""
    content = bytearray(write(path.with_name("right.nii"), volumes()[0]).read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for key, value in changes.items():
        header[key] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


QFORM = {"sform_code": 0, "qform_code": 1}
HEADERS = {
    "a thousand million voxels": ({"dim": [3, 1000, 1000, 1000, 1, 1, 1, 1]}, "promises 4000000352"),
    "voxels past the end": ({"vox_offset": 1e9}, "promises"),
    "no offset": ({"vox_offset": np.nan}, "cannot be read"),
    "negative sides": ({"dim": [3, -9, 8, 7, 1, 1, 1, 1]}, "shape -9×8×7"),
    "five dimensions": ({"dim": [5, 9, 8, 7, 1, 2, 1, 1]}, "shape 9×8×7×1×2"),
    "unknown numbers": ({"datatype": 9999}, "9999"),
    "no affine": ({"srow_x": [np.nan, 0, 0, 0]}, "broken affine"),
    "a flat affine": ({"srow_x": [2, 2, 0, 0], "srow_y": [2, 2, 0, 0]}, "broken affine"),
    "a column of 0": ({"srow_x": [0, 0, 0, 0]}, "voxels of 0×2×2 mm"),
    "metres": ({"srow_x": [0.001, 0, 0, 0]}, "voxels of 0.001×2×2 mm"),
    "an impossible turn": ({**QFORM, "quatern_b": 5.0}, "cannot be read"),
    "a turn that is none": ({**QFORM, "quatern_b": np.nan}, "broken affine"),
    "another magic word": ({"magic": b"xxx"}, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("which", HEADERS)
def test_an_impossible_header_is_one_sentence(which, suffix, tmp_path, capfd):
    changes, words = HEADERS[which]
    assert words in refusal(with_header(tmp_path / f"x{suffix}", **changes))
    assert capfd.readouterr() == ("", "")  # nibabel's own remarks are not for the user


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "x.nii.gz").mkdir()
    assert "is a folder" in refusal(tmp_path / "x.nii.gz")
    assert "does not exist" in refusal(tmp_path / "y.nii.gz")
    (tmp_path / "z.nii.gz").symlink_to(tmp_path / "z.nii.gz")
    assert "does not exist" in refusal(tmp_path / "z.nii.gz")
    (tmp_path / "e.nii").touch()
    assert "cannot be read" in refusal(tmp_path / "e.nii")
