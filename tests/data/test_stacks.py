"""Laws of files of four volumes: imagesTr hides nothing beside it, and labels are found packed or not."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from scans import NEW, SHAPE, classes, volumes, write, write_case, write_decathlon

from keelnet.data.cases import find_cases
from keelnet.data.conventions import convention_named
from keelnet.data.scans import read_scan, read_scans, settle

FOUR = np.moveaxis(volumes(), 0, -1)


@pytest.mark.parametrize("place", [".", "imagesTr", "imagesTr/deeper", "brats"])
def test_cases_beside_and_below_imagestr_are_found(place, tmp_path):
    write_decathlon(tmp_path, "A_1")
    write_case(tmp_path / place, "p1", NEW, (1, 2, 3), "-")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["A_1", "p1"] and not found.refused
    with pytest.raises(ValueError, match="more than one convention; read them one set at a time"):
        settle(found)
    (scan,) = read_scans(settle(find_cases([tmp_path / place / "p1"])))
    np.testing.assert_array_equal(scan.classes, classes())


def test_imagestr_may_hold_a_folder_a_case(tmp_path):
    write_case(tmp_path / "imagesTr", "BraTS-GLI-00000-000", NEW, (1, 2, 3), "-")
    for address in (tmp_path, tmp_path / "imagesTr"):
        found = settle(find_cases([address]))
        assert found.convention.name == "brats2023" and found.layout == "a file for each modality"
        assert [case.name for case in found.cases] == ["BraTS-GLI-00000-000"]


def test_what_else_lies_in_a_decathlon_is_no_case(tmp_path):
    """Masks, what a program labelled, diffusion, damaged files; a set to test on is asked for by its own folder."""
    write_decathlon(tmp_path, "A_1")
    write(tmp_path / "imagesTs" / "A_1.nii.gz", FOUR)
    write(tmp_path / "predictions" / "A_1.nii.gz", classes())
    for name in ("A_1", "A_1_t1", "B_1"):
        write(tmp_path / "mimicsTr" / f"{name}.nii.gz", classes())
    write(tmp_path / "extra" / "dwi.nii.gz", FOUR)
    for place in ("labelsTr", "mimicsTr", "extra"):
        (tmp_path / place / "damaged.nii.gz").write_bytes(b"?")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["A_1"] and not found.refused
    assert found.cases[0].first.parent == tmp_path / "imagesTr"
    assert found.passed == [tmp_path / "extra" / "dwi.nii.gz"]
    assert found.layout == "Decathlon, four volumes a file (flair, t1, t1ce, t2)"
    assert [case.labels for case in find_cases([tmp_path / "imagesTs"]).cases] == [None]


@pytest.mark.parametrize("address", [".", "Task01", "Task01/imagesTr", "Task01/imagesTr/[A-C]*"])
def test_a_file_of_imagestr_that_is_no_case_is_refused_by_name(address, tmp_path):
    write_decathlon(tmp_path / "Task01", "A_1")
    write(tmp_path / "Task01" / "imagesTr" / "B_1_0000.nii.gz", volumes()[0])
    write(tmp_path / "Task01" / "imagesTr" / "C_1.nii.gz", FOUR[..., :3])
    found = settle(
        find_cases([*tmp_path.glob(address)] if "*" in address else [tmp_path / address])
    )
    assert [scan.name for scan in read_scans(found, skip_bad=True)] == ["A_1"]
    way = "4 are wanted, or a file for each modality named like <case>_t1ce.nii.gz"
    assert found.refused == {
        "B_1_0000": f"B_1_0000.nii.gz holds 1 volumes, {way}",
        "C_1": f"C_1.nii.gz holds 3 volumes, {way}",
    }


def test_files_that_were_asked_for_are_refused_by_name_where_they_are_no_case(tmp_path):
    write(tmp_path / "A_1.nii.gz", FOUR)
    other = write(tmp_path / "B_1.nii.gz", FOUR[..., :3])
    (case, bad) = find_cases([tmp_path / "A_1.nii.gz", other]).cases
    read_scan(case, None)
    with pytest.raises(ValueError, match="B_1.nii.gz holds 3 volumes, 4 are wanted"):
        read_scan(bad, None)
    assert [each.name for each in find_cases([tmp_path]).cases] == ["A_1"]  # whose file it may be


def test_sets_of_hearts_beside_that_of_tumours_refuse_nothing(tmp_path):
    write_decathlon(tmp_path / "Task01", "A_1")
    write(tmp_path / "Task02" / "imagesTr" / "la_1.nii.gz", volumes()[0])
    (tmp_path / "Task02" / "dataset.json").write_text('{"modality": {"0": "MRI"}}')
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["A_1"] and not found.refused


@pytest.mark.parametrize("address", [".", "Task01"])
def test_a_set_to_test_on_is_asked_for_by_its_own_folder(address, tmp_path):
    write_decathlon(tmp_path / "Task01", "A_1")
    place = tmp_path / "Task01" / "imagesTs"
    write(place / "A_1.nii.gz", FOUR)
    found = find_cases([tmp_path / address])
    assert [case.first.parent.name for case in found.cases] == ["imagesTr"] and not found.refused
    assert f"left out: {place}, a set to test on" in str(found)
    assert [case.first.parent for case in find_cases([place]).cases] == [place]


def test_labels_that_were_not_fetched_are_not_taken_for_none(tmp_path):
    write_decathlon(tmp_path, "A_1")
    write_decathlon(tmp_path, "B_1")
    path = tmp_path / "labelsTr" / "B_1.nii.gz"
    path.unlink()
    path.symlink_to(tmp_path / ".git" / "annex" / "B_1.nii.gz")
    found = settle(find_cases([tmp_path]))
    assert [scan.name for scan in read_scans(found, skip_bad=True)] == ["A_1"]
    assert found.refused == {"B_1": "B_1.nii.gz does not exist"}


@pytest.mark.parametrize("image", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("labels", [".nii", ".nii.gz"])
def test_labels_are_found_packed_or_not(image, labels, tmp_path):
    write_decathlon(tmp_path, "A_1")
    path = tmp_path / "labelsTr" / "A_1.nii.gz"
    if labels == ".nii":
        nibabel.save(nibabel.load(path), path.with_suffix(""))
        path.unlink()
    path = tmp_path / "imagesTr" / "A_1.nii.gz"
    if image == ".nii":
        nibabel.save(nibabel.load(path), path.with_suffix(""))
        path.unlink()
    elif image == ".NII.GZ":
        path.rename(path.with_name("A_1.NII.GZ"))
    (scan,) = read_scans(settle(find_cases([tmp_path])))
    np.testing.assert_array_equal(scan.classes, classes())


def test_of_labels_that_lie_there_packed_and_not_those_called_as_the_image_are_its_own(tmp_path):
    write_decathlon(tmp_path, "A_1")
    write(tmp_path / "labelsTr" / "A_1.nii", np.zeros(SHAPE, np.uint8))
    (scan,) = read_scans(settle(find_cases([tmp_path])))
    np.testing.assert_array_equal(scan.classes, classes())


def test_labels_that_lie_there_packed_and_not_are_not_chosen_between_for_another_name(tmp_path):
    write_decathlon(tmp_path, "A_1")
    write(tmp_path / "labelsTr" / "A_1.nii", np.zeros(SHAPE, np.uint8))
    path = tmp_path / "imagesTr" / "A_1.nii.gz"
    path.rename(path.with_name("A_1.NII.GZ"))
    for address in (tmp_path, tmp_path / "imagesTr" / "A_1.NII.GZ"):
        found = find_cases([address])
        assert not found.cases
        assert found.refused == {"A_1": "two files of labels: A_1.nii.gz and A_1.nii"}
        (case,) = found.for_prediction().cases
        assert case.name == "A_1" and case.labels is None
    settle(found, convention_named("msd"))
