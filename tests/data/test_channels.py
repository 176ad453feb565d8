"""Laws of channels: what nnU-Net has in four files is what the Decathlon has in one, or refused in words that name it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scans import classes, volumes, write, write_decathlon

from keelnet.data.cases import find_cases
from keelnet.data.conventions import CONVENTIONS
from keelnet.data.scans import read_scan, read_scans, settle

NAMES = {"flair": "FLAIR", "t1": "T1w", "t1ce": "t1gd", "t2": "T2w"}
MSD = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}
REGIONS = {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
BRATS = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}


def write_channels(folder, name, order=tuple(NAMES), labels=MSD, convention="msd", place="Tr"):
    """Also what dataset.json says of them; the modalities in this order."""
    given = dict(zip(NAMES, volumes(), strict=True))
    for number, modality in enumerate(order):
        write(folder / f"images{place}" / f"{name}_000{number}.nii.gz", given[modality])
    if convention is not None:
        values = CONVENTIONS[convention].to_file(classes())
        write(folder / f"labels{place}" / f"{name}.nii.gz", values)
    said = {"channel_names": {str(n): NAMES[each] for n, each in enumerate(order)}}
    (folder / "dataset.json").write_text(json.dumps(said | {"labels": labels}))
    return folder


@pytest.mark.parametrize("address", ["*", "set", "set/imagesTr", "set/imagesTr/*"])
@pytest.mark.parametrize(
    ("labels", "convention"), [(MSD, "msd"), (REGIONS, "msd"), (BRATS, "brats2023")]
)
def test_a_file_a_channel_is_read_as_its_list_says(address, labels, convention, tmp_path):
    order = ("t2", "t1ce", "flair", "t1")
    for name in ("BRATS_001", "BRATS_002"):
        write_channels(tmp_path / "set", name, order, labels, convention)
    found = settle(find_cases([*tmp_path.glob(address)]))
    assert found.convention is CONVENTIONS[convention] and not found.refused
    assert found.layout == "nnU-Net, a file a channel (t2, t1ce, flair, t1)"
    scans = list(read_scans(found))
    assert [scan.name for scan in scans] == ["BRATS_001", "BRATS_002"]
    for scan in scans:
        np.testing.assert_array_equal(scan.x, volumes())
        np.testing.assert_array_equal(scan.classes, classes())


@pytest.mark.parametrize("labels", [None, {}, {"tumor": 1}])
def test_what_labels_mean_that_nobody_tells_is_asked_for(labels, tmp_path):
    """The Decathlon's own are known by its layout; this one is everybody's."""
    write_channels(tmp_path, "a", labels=labels)
    with pytest.raises(ValueError, match="is not clear.*--labels"):
        settle(find_cases([tmp_path]))
    (scan,) = read_scans(settle(find_cases([tmp_path]), CONVENTIONS["msd"]))
    np.testing.assert_array_equal(scan.classes, classes())


def test_a_set_to_test_on_is_read_where_it_is_asked_for(tmp_path):
    write_channels(tmp_path, "a")
    write_channels(tmp_path, "b", convention=None, place="Ts")
    assert [case.name for case in find_cases([tmp_path]).cases] == ["a"]
    (case,) = find_cases([tmp_path / "imagesTs"]).cases
    assert case.name == "b" and case.labels is None
    np.testing.assert_array_equal(read_scan(case, None).x, volumes())


def test_a_folder_that_is_called_otherwise_is_read_where_its_list_lies_in_it(tmp_path):
    write_channels(tmp_path, "a", convention=None)
    place = (tmp_path / "imagesTr").rename(tmp_path / "mine")
    with pytest.raises(ValueError, match="no case in"):
        find_cases([place])
    (tmp_path / "dataset.json").rename(place / "dataset.json")
    assert [case.name for case in find_cases([tmp_path]).cases] == ["a"]


def without_list(folder):
    (folder / "dataset.json").unlink()
    return "without a .*dataset.json that names them"


def with_others(folder):
    (folder / "dataset.json").write_text(
        '{"channel_names": {"0": "CT", "1": "a", "2": "b", "3": "c"}}'
    )
    return "lists the modalities CT, a, b, c; flair, t1, t1ce, t2 are wanted"


def without_one(folder):
    (folder / "imagesTr" / "a_0002.nii.gz").unlink()
    return "without a_0002"


def with_two(folder):
    write(folder / "imagesTr" / "a_0002.nii", volumes()[0])
    return "two files for a channel: a_0002.nii and a_0002.nii.gz"


@pytest.mark.parametrize("change", [without_list, with_others, without_one, with_two])
@pytest.mark.parametrize("address", ["set/imagesTr", "set/imagesTr/*"])
def test_what_cannot_be_told_is_refused_with_the_layout_and_the_way_out(change, address, tmp_path):
    reason = change(write_channels(tmp_path / "set", "a"))
    found = find_cases(sorted(tmp_path.glob(address)))
    assert not found.cases and list(found.refused) == ["a"]
    with pytest.raises(ValueError, match=f"nnU-Net's layout .*{reason}.*; a CSV of paths"):
        raise ValueError(found.refused["a"])
    write_decathlon(tmp_path / "Task01", "A_1")
    if change is with_others:  # they are of another set
        found = find_cases([tmp_path])
        assert [case.name for case in found.cases] == ["A_1"] and not found.refused


def test_numbered_files_of_four_volumes_are_no_channels(tmp_path):
    for number in range(4):
        write_decathlon(tmp_path, f"scan_000{number}")
    found = settle(find_cases([tmp_path]))
    assert [case.name for case in found.cases] == [f"scan_000{number}" for number in range(4)]
    assert all(case.stacked for case in found.cases) and not found.refused


def test_among_files_of_four_volumes_one_that_cannot_be_read_takes_none_with_it(tmp_path):
    for number in range(4):
        write_decathlon(tmp_path, f"scan_000{number}")
    (tmp_path / "imagesTr" / "scan_0000.nii.gz").write_bytes(b"")
    found = settle(find_cases([tmp_path]))
    assert [case.name for case in found.cases] == [f"scan_000{number}" for number in range(4)]
    assert all(case.stacked for case in found.cases)


def test_labels_elsewhere_are_pointed_to_where_they_are_read(tmp_path):
    write_channels(tmp_path, "a", convention=None)
    path = write(tmp_path / "more" / "a_seg.nii.gz", classes())
    (line,) = find_cases([tmp_path]).unclear
    assert str(path) in line and "in labelsTr beside imagesTr" in line
