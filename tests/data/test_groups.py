"""Laws of groups: labels that lie there are found, or it is said where they may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scans import OLD, classes, volumes, write, write_case

from keelnet.data.cases import find_cases
from keelnet.data.conventions import ALIASES
from keelnet.data.file_names import SEGMENTATION, subject_and_kind
from keelnet.data.scans import read_scans, settle

LABELS = np.array([0, 1, 2, 4], np.uint8)[classes()]


def scans(folder, subject, separator="_", words=tuple(OLD)):
    for values, word in zip(volumes(), words, strict=True):
        write(folder / f"{subject}{separator}{word}.nii.gz", values)


@pytest.mark.parametrize(
    ("subject", "separator", "ending", "alone"),
    [
        ("Patient 1", " ", " seg", True),
        ("Patient 1", " ", " seg", False),
        ("Patient 1", "_", " seg", False),
        ("Patient 1", " ", " tumor mask", True),
        ("Patient 1", " ", " tumor mask", False),
        ("sub-01", "_", "_dseg", False),
        ("sub-01_space-T1w", "_", "_dseg", False),
        ("sub-01", "_", "_label-lesion_dseg", True),
        ("RHUH-0001_0", "_", "_segmentations", False),
        ("p1", "_", "_tumorMask", False),
        ("p1", "_", "_lesionmask", True),
        ("p1_tumour", "_", "_seg", False),
        ("TCGA-02-0006_1996.08.23", "_", "_GlistrBoost_ManuallyCorrected", True),
        ("TCGA-02-0006_1996.08.23", "_", "_GlistrBoost_ManuallyCorrected", False),
    ],
)
def test_labels_beside_the_scans_are_theirs(subject, separator, ending, alone, tmp_path):
    scans(tmp_path, subject, separator)
    write(tmp_path / f"{subject}{ending}.nii.gz", LABELS)
    write(tmp_path / f"{subject}_GlistrBoost.nii.gz", classes())
    if not alone:
        scans(tmp_path, "other")
    found = settle(find_cases([tmp_path]))
    (labelled,) = (scan for scan in read_scans(found) if scan.classes is not None)
    assert labelled.name == subject and not found.refused
    np.testing.assert_array_equal(labelled.classes, classes())


def test_a_mask_that_bears_less_than_the_name_of_its_scans_is_theirs_where_it_is_alone(tmp_path):
    """As the MU-Glioma-Post set has it."""
    scans(tmp_path, "PatientID_0003_Timepoint_1_brain")
    path = write(tmp_path / "PatientID_0003_Timepoint_1_tumorMask.nii.gz", LABELS)
    (case,) = find_cases([tmp_path]).cases
    assert case.labels == path and case.whose == "PatientID_0003"


def test_labels_by_the_name_of_the_scans_go_before_a_mask_of_the_tumour(tmp_path):
    scans(tmp_path, "p1")
    for name in ("seg", "tumor_mask", "tumorMask"):
        write(tmp_path / f"p1_{name}.nii.gz", LABELS)
    found = find_cases([tmp_path])
    assert [case.labels.name for case in found.cases] == ["p1_seg.nii.gz"] and not found.refused
    (tmp_path / "p1_seg.nii.gz").unlink()
    found = find_cases([tmp_path])
    assert found.cases[0].labels is None and "p1_tumorMask.nii.gz or" in str(found)


@pytest.mark.parametrize("name", ["label-GM_dseg", "space-MNI152_dseg", "desc-aparcaseg_dseg", "label-GM_probseg", "desc-brain_mask", "T1w_dseg", "acq-1_dseg"])  # fmt: skip
def test_tissues_as_bids_calls_them_are_no_labels(name, tmp_path):
    scans(tmp_path, "sub-01", words=("FLAIR", "T1w", "T1c", "T2w"))
    write(tmp_path / f"sub-01_{name}.nii.gz", LABELS)
    found = find_cases([tmp_path])
    assert [case.labels for case in found.cases] == [None] and not found.refused
    pointed_to = f"sub-01_{name}.nii.gz is taken for tissues of the brain" in str(found)
    assert pointed_to == ("dseg" in name)


@given(
    st.text("aB1 _-.", max_size=6),
    st.sampled_from("_-. "),
    st.sampled_from(sorted(ALIASES)),
    st.sampled_from(["seg", "Segm", "label", "mask"]),
)
def test_scans_and_labels_with_one_beginning_are_of_one_subject(subject, separator, word, mark):
    told = subject_and_kind(f"{subject}{separator}{word}")
    assert told == (subject.rstrip("_-. "), word)
    stem = f"{subject}{separator}{mark}"
    found = SEGMENTATION.search(stem)
    assert stem[: found.start()].rstrip("_-. ") == told[0]


BIDS = {  # the names of FLAIR, T1, T1ce and T2, and the case
    "a contrast agent": ("FLAIR", "T1w", "ce-gadolinium_T1w", "T2w", "sub-01"),
    "among others": (
        "ses-1_FLAIR",
        "ses-1_acq-mprage_run-1_T1w",
        "ses-1_acq-mprage_ce-gad_run-1_T1w",
        "ses-1_rec-2_T2w",
        "sub-01_ses-1",
    ),
    "all alike": ("run-2_FLAIR", "run-2_T1w", "ce-gad_run-2_T1w", "run-2_T2w", "sub-01_run-2"),
}


@pytest.mark.parametrize("which", BIDS)
@pytest.mark.parametrize("table", [False, True])
def test_scans_of_a_session_as_bids_calls_them_are_one_case(which, table, tmp_path):
    *names, case = BIDS[which]
    for values, name in zip(volumes(), names, strict=True):
        write(tmp_path / f"sub-01_{name}.nii.gz", values)
    write(tmp_path / f"{case}_seg.nii.gz", LABELS)
    scans(tmp_path, "sub-02", words=("FLAIR", "T1w", "T1c", "T2w"))
    source = tmp_path
    if table:
        source = tmp_path / "scans.csv"
        cells = ",".join(f"sub-01_{name}.nii.gz" for name in names)
        source.write_text(f"case,flair,t1,t1ce,t2,seg\n{case},{cells},{case}_seg.nii.gz\n")
    found = settle(find_cases([source]))
    assert found.convention.name == "brats2021" and not found.refused
    one, *_ = read_scans(found)
    assert one.name == case
    np.testing.assert_array_equal(one.x, volumes())
    np.testing.assert_array_equal(one.classes, classes())


def test_which_of_two_runs_belongs_to_a_session_is_not_guessed(tmp_path):
    for name in ("FLAIR", "run-1_T1w", "run-2_T1w", "ce-gad_T1w", "T2w"):
        write(tmp_path / f"sub-01_{name}.nii.gz", volumes()[0])
    found = find_cases([tmp_path])
    assert not found.cases and "t1 missing" in found.refused["sub-01"]
    for name in (
        "FLAIR",
        "ce-gad_T1w",
        "T2w",
    ):  # the first run is a case by itself, the second one is none
        (tmp_path / f"sub-01_{name}.nii.gz").rename(tmp_path / f"sub-01_run-1_{name}.nii.gz")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["sub-01_run-1"]
    assert list(found.refused) == ["sub-01_run-2"]


def test_a_contrast_agent_in_other_modalities_stays_in_the_name():
    assert subject_and_kind("sub-01_ce-gad_FLAIR") == ("sub-01_ce-gad", "flair")
    assert subject_and_kind("sub-01_space-T1w_T1w") == ("sub-01_space-T1w", "t1w")


def test_labels_that_were_drawn_on_one_scan_of_a_session_are_pointed_to(tmp_path):
    for values, name in zip(volumes(), BIDS["a contrast agent"], strict=False):
        write(tmp_path / f"sub-01_{name}.nii.gz", values)
    scans(tmp_path, "sub-02")
    path = write(tmp_path / "sub-01_acq-fast_ce-gadolinium_dseg.nii.gz", LABELS)
    (line,) = find_cases([tmp_path]).unclear
    assert line.startswith(f"sub-01 is without labels: {path} may hold them")


ELSEWHERE = {
    "another folder": ("images_segm", "UPENN-GBM-00001_11_segm.nii.gz"),
    "found by a program": (".", "UPENN-GBM-00001_11_GlistrBoost.nii.gz"),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_labels_elsewhere_are_pointed_to_and_not_taken(where, tmp_path):
    place, name = ELSEWHERE[where]
    subject = "UPENN-GBM-00001_11"
    scans(tmp_path, subject)
    path = write(tmp_path / place / name, LABELS)
    found = find_cases([tmp_path])
    assert found.cases[0].labels is None
    (line,) = found.unclear
    assert line.startswith(f"{subject} is without labels: {path} may hold them") and line in str(found)  # fmt: skip
    assert find_cases([tmp_path, tmp_path]).unclear == [line]
    write(tmp_path / "of a program" / f"{subject}_seg.nii.gz", LABELS)
    write(tmp_path / "of a program" / f"{subject}_1_seg.nii.gz", LABELS)
    (line,) = find_cases([tmp_path]).unclear
    assert f"{subject} is without labels: they may be " in line and str(path) in line
    path.rename(tmp_path / f"{subject}_segm.nii.gz")
    found = settle(find_cases([tmp_path]))
    assert found.convention.name == "brats2021" and not found.unclear


def test_labels_beside_four_volumes_are_pointed_to(tmp_path):
    write(tmp_path / "c1.nii.gz", np.moveaxis(volumes(), 0, -1))
    write(tmp_path / "c1_seg.nii.gz", LABELS)
    found = find_cases([tmp_path])
    assert [case.labels for case in found.cases] == [None]
    (line,) = found.unclear
    assert str(tmp_path / "c1_seg.nii.gz") in line and "labelsTr" in line


def test_two_files_of_labels_keep_no_scan_from_being_segmented(tmp_path):
    write_case(tmp_path, "a")
    folder = write_case(tmp_path, "b")
    write(folder / "b_mask.nii.gz", classes())
    (write_case(tmp_path, "c") / "c_t1.nii.gz").unlink()
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["a"] and set(found.refused) == {"b", "c"}
    loose = found.for_prediction()
    assert [case.name for case in loose.cases] == ["a", "b"] and set(loose.refused) == {"c"}
    assert loose.cases[1].labels is None and loose.layout == found.layout


@pytest.mark.parametrize("hidden", [".Trash-1000", ".unfinished"])
def test_hidden_folders_are_not_searched(hidden, tmp_path):
    write_case(tmp_path, "a")
    write_case(tmp_path / hidden / "files", "b")
    assert [case.name for case in find_cases([tmp_path]).cases] == ["a"]
    # One that is asked for is.
    assert [case.name for case in find_cases([tmp_path / hidden]).cases] == ["b"]
    assert [case.name for case in find_cases([tmp_path / hidden / "files"]).cases] == ["b"]


def test_links_into_a_hidden_store_are_files(tmp_path):
    folder = write_case(tmp_path, "a")
    store = tmp_path / ".git" / "annex"
    store.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(store / f"{number}.nii.gz")
        path.symlink_to(store / f"{number}.nii.gz")
    found = settle(find_cases([tmp_path]))
    (scan,) = read_scans(found)
    np.testing.assert_array_equal(scan.classes, classes())
