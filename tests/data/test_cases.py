"""Laws of reading: every published layout is recognised, and a doubtful one is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scans import NEW, OLD, RAS, SHAPE, classes, volumes, write, write_case, write_decathlon

from keelnet.data.cases import find_cases
from keelnet.data.conventions import CONVENTIONS, MODALITIES, convention_named
from keelnet.data.scans import ScanWarning, read_scan, read_scans, settle


def read(folder, labels=None):
    """What is recognised, and the scans."""
    found = settle(find_cases([folder]), convention_named(labels) if labels else None)
    return found, list(read_scans(found))


def write_2017(folder):
    write_case(folder / "HGG", "Brats17_2013_10_1")
    write_case(folder / "LGG", "Brats17_2013_0_1")


def write_2020(folder):
    write_case(folder, "BraTS20_Training_001", suffix=".nii")
    case = write_case(folder, "BraTS20_Training_355", suffix=".nii")
    (case / "BraTS20_Training_355_seg.nii").rename(case / "W39_1998.09.19_Segm.nii")


def write_table(folder):
    write_case(folder / "elsewhere", "a")
    columns = ["case", "T1", "t1gd", "T2w", "FLAIR", "seg"]
    cells = ["first", *(f"elsewhere/a/a_{w}.nii.gz" for w in ("t1", "t1ce", "t2", "flair", "seg"))]
    (folder / "scans.csv").write_text(",".join(columns) + "\n" + ",".join(cells) + "\n")


LAYOUTS = {
    "2017": (write_2017, "brats2021", 2),
    "2020": (write_2020, "brats2021", 2),
    "2021": (lambda f: write_case(f, "BraTS2021_00000"), "brats2021", 1),
    "2023": (
        lambda f: write_case(f, "BraTS-GLI-00000-000", NEW, (1, 2, 3), "-"),
        "brats2023",
        1,
    ),
    "decathlon": (lambda f: write_decathlon(f, "BRATS_001"), "msd", 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_and_means_the_same(layout, tmp_path):
    make, convention, count = LAYOUTS[layout]
    folder = tmp_path / "scans with späces"
    make(folder)
    found, scans = read(folder)
    assert found.convention is CONVENTIONS[convention] and not found.refused
    assert len(scans) == count
    for scan in scans:
        assert scan.x.shape == (4, *SHAPE) and scan.x.dtype == np.float32
        np.testing.assert_array_equal(scan.x, volumes())
        np.testing.assert_array_equal(scan.classes, classes())


def test_2024_has_a_cavity(tmp_path):
    write_case(tmp_path, "BraTS-GLI-00000-100", NEW, (1, 2, 3), "-")
    folder = write_case(tmp_path, "BraTS-GLI-00001-100", NEW, (1, 4, 3), "-")
    found, scans = read(tmp_path)
    assert found.convention.name == "brats2024"
    assert set(np.unique(scans[1].classes)) == {0, 1, 3, 4}
    assert found.convention.to_file(scans[1].classes).max() == 4
    assert folder.name in str(scans[1].name)


def test_a_table_of_paths_and_single_files_will_do(tmp_path):
    write_table(tmp_path)
    found, scans = read(tmp_path / "scans.csv")
    assert scans[0].name == "first" and found.convention.name == "brats2021"
    np.testing.assert_array_equal(scans[0].x, volumes())
    files = sorted((tmp_path / "elsewhere" / "a").glob("*.nii.gz"))
    assert [case.name for case in find_cases(files).cases] == ["a"]
    write_decathlon(tmp_path / "msd", "BRATS_007")
    single = find_cases([tmp_path / "msd" / "imagesTr" / "BRATS_007.nii.gz"])
    assert [case.name for case in single.cases] == ["BRATS_007"]


def test_the_order_of_four_volumes_is_read_from_their_list(tmp_path):
    write_decathlon(tmp_path, "BRATS_001")
    order = {"0": "T2w", "1": "T1gd", "2": "T1w", "3": "FLAIR"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": order}))
    _, scans = read(tmp_path)
    np.testing.assert_array_equal(scans[0].x, volumes()[::-1])
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "CT"}}))
    with pytest.raises(ValueError, match="lists the modalities CT"):
        find_cases([tmp_path])


@pytest.mark.parametrize(
    ("words", "separator", "values", "reason"),
    [
        (OLD, "_", (1, 2, 3), "names are those of BraTS 2017-2021.*--labels"),
        (NEW, "-", (1, 2, 4), "not clear.*--labels"),
        (NEW, "-", (1, 2, 9), "case x: .*labels hold 9.*correct the file"),
    ],
)
def test_a_doubtful_set_is_refused_with_the_flag_that_settles_it(
    words, separator, values, reason, tmp_path
):
    write_case(tmp_path, "x", words, values, separator)
    with pytest.raises(ValueError, match=reason):
        read(tmp_path)
    if 9 not in values:
        flag = "brats2023" if 3 in values else "brats2021"
        _, scans = read(tmp_path, flag)
        np.testing.assert_array_equal(scans[0].classes, classes())


@pytest.mark.parametrize("values", [(1, 2, 4), (1, 2, 0)])
@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_labels_that_were_stored_with_a_scale_are_whole_again(kind, values, tmp_path):
    folder = write_case(tmp_path, "x", values=values)
    path = write(folder / "x_seg.nii.gz", np.array([0, *values], kind)[classes()])
    exact, (before,) = read(tmp_path)
    image = nibabel.load(path)  # changed as floats and saved under its old header
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(), image.affine, image.header), path)
    assert nibabel.load(path).dataobj.slope != 1
    found, (after,) = read(tmp_path)
    assert found.convention is exact.convention and found.reason == exact.reason
    np.testing.assert_array_equal(after.classes, before.classes)


def test_two_sets_in_one_folder_are_doubtful(tmp_path):
    write_case(tmp_path, "old")
    write_case(tmp_path, "new", NEW, (1, 2, 3), "-")
    with pytest.raises(ValueError, match="more than one convention"):
        read(tmp_path)


def _oblique():
    angle = 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ np.diag([-1.0, -1.2, 3.0, 1.0])


AFFINES = {"RAS": RAS, "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]), "oblique": _oblique()}


@pytest.mark.parametrize("orientation", AFFINES)
def test_scans_are_turned_to_ras_and_back(orientation, tmp_path):
    affine = AFFINES[orientation]
    # Stored with axes in another order too: superior, right, anterior.
    axes = affine[:, [2, 0, 1, 3]]
    folder = write_case(tmp_path, "x", affine=axes)
    found = settle(find_cases([folder]))
    scan = read_scan(found.cases[0], found.convention)
    signs = np.sign(np.diag(affine)[:3])
    right = slice(None, None, int(signs[0])), slice(None, None, int(signs[1]))
    stored = volumes()[0]  # (superior, right, anterior)
    np.testing.assert_array_equal(scan.x[0], np.moveaxis(stored, 0, 2)[right])
    np.testing.assert_array_equal(scan.geometry.back(scan.x[0]), stored)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(scan.geometry.spacing, spacing)


def broken(tmp_path, what):
    folder = write_case(tmp_path, "x")
    t1 = folder / "x_t1.nii.gz"
    values, x = volumes()[1], volumes()
    if what == "truncated":
        t1.write_bytes(t1.read_bytes()[:-200])
    if what == "no header":
        t1.write_bytes(b"not a volume")
    if what == "missing":
        t1.unlink()
    if what == "shape":
        write(t1, values[:-1])
    if what == "affine":
        write(t1, values, RAS + np.eye(4, k=3))
    if what == "nan":
        values[3, 3, 3] = np.nan
        write(t1, values)
    if what == "zero":
        write(t1, 0 * values)
    if what == "5-D":
        write(t1, np.stack([x, x], -1))
    if what == "slice":
        write(t1, values[:, :, :1])
    if what == "label":
        write(folder / "x_seg.nii.gz", 5 * classes())
    if what == "fractions":
        write(folder / "x_seg.nii.gz", classes() * 0.5)
    return folder


REASONS = {
    "truncated": "cannot be read",
    "no header": "cannot be read",
    "missing": "t1 missing",
    "shape": r"shape 9×8×7, x_t1.nii.gz 8×8×7",
    "affine": "1.00 mm apart",
    "nan": "t1 holds 1 voxels that are NaN",
    "zero": "t1 is 0 everywhere",
    "5-D": "has shape",
    "slice": "a slice, not a volume",
    "label": "labels hold 5, 10, 15, but BraTS 2017-2021 has only 0, 1, 2, 4",
    "fractions": "labels hold 0.5, 1.5, but BraTS 2017-2021 has only",
}


@pytest.mark.parametrize("what", REASONS)
def test_a_broken_case_is_refused_in_one_sentence(what, tmp_path):
    write_case(tmp_path, "good")
    broken(tmp_path, what)
    found = find_cases([tmp_path])
    settle(found)
    scans = list(read_scans(found, skip_bad=True))
    assert [scan.name for scan in scans] == ["good"]
    assert list(found.refused) == ["x"]
    assert re.search(REASONS[what], found.refused["x"]), found.refused["x"]
    assert "\n" not in found.refused["x"]
    if what not in ("missing",):
        with pytest.raises(ValueError, match="case x: "):
            list(read_scans(settle(find_cases([tmp_path]))))


def test_what_is_hardly_a_scan_is_read_with_a_warning(tmp_path):
    folder = write_case(tmp_path, "x")
    values = volumes()
    write(folder / "x_t1.nii.gz", np.float32(7) * (values[1] > 0))
    values[2, [0, -1]] = -2.5
    write(folder / "x_t1ce.nii.gz", values[2])
    with pytest.warns(ScanWarning) as heard:
        read(tmp_path)
    assert [str(each.message) for each in heard] == [
        "case x: t1 is 7 wherever it is not 0, as a mask is",
        "case x: t1ce is -2.5 in every corner, which is taken for brain; outside of it 0 is wanted",
    ]


def test_noise_in_the_air_is_warned_of(tmp_path):
    folder = write_case(tmp_path, "x")
    for number, word in enumerate(OLD):
        noise = np.abs(np.random.default_rng(number).normal(0, 8, SHAPE)) + 0.01
        noise[2:6, 2:6, 2:5] += 500
        write(folder / f"x_{word}.nii.gz", noise.astype(np.float32))
    with pytest.warns(ScanWarning) as heard:
        read(tmp_path)
    assert [str(each.message).partition(",")[0] for each in heard] == [
        f"case x: {modality} is 0 in 0.0 % of its voxels" for modality in MODALITIES
    ]


def test_a_folder_without_a_case_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no case in .*_t1ce.nii.gz"):
        find_cases([tmp_path])
    with pytest.raises(ValueError, match="does not exist"):
        find_cases([tmp_path / "none"])
    (tmp_path / "note.txt").write_text("?")
    with pytest.raises(ValueError, match="neither a folder"):
        find_cases([tmp_path / "note.txt"])


@pytest.mark.parametrize("where", ["a", "z"])
@pytest.mark.parametrize("reason", ["t1 missing", "two files for t1"])
def test_a_whole_case_is_kept_where_another_of_its_name_is_refused(reason, where, tmp_path):
    write_case(tmp_path / "done", "x")
    folder = write_case(tmp_path / where, "x")
    if reason == "t1 missing":
        (folder / "x_t1.nii.gz").unlink()
    else:
        write(folder / "x_t1n.nii.gz", volumes()[1])
    write(tmp_path / "also" / "x_t2.nii.gz", volumes()[3])
    found = find_cases([tmp_path])
    assert [case.first.parent for case in found.cases] == [tmp_path / "done" / "x"]
    assert set(found.refused) == {f"x ({folder})", f"x ({tmp_path / 'also'})"}
    assert reason in found.refused[f"x ({folder})"]


def test_a_case_without_labels_can_be_read(tmp_path):
    folder = write_case(tmp_path, "x")
    (folder / "x_seg.nii.gz").unlink()
    found, scans = read(tmp_path)
    assert scans[0].classes is None and found.convention is None
    assert len(MODALITIES) == len(scans[0].x)


@pytest.mark.parametrize(
    "name",
    ["x_t1_brain_mask", "x_brain_mask", "x_t1_bet_mask", "sub-01_desc-brain_mask", "other_mask"],
)
def test_a_mask_of_the_brain_is_not_labels(name, tmp_path):
    folder = write_case(tmp_path, "x")
    (folder / "x_seg.nii.gz").unlink()
    write(folder / f"{name}.nii.gz", (volumes()[0] > 0).astype(np.uint8))
    found, scans = read(tmp_path)
    assert scans[0].classes is None and found.cases[0].labels is None and not found.refused


@pytest.mark.parametrize("name", ["p1_brain_seg", "p1_brain_label", "tumor_mask", "lesion-mask"])
def test_labels_of_skull_stripped_scans_are_labels(name, tmp_path):
    folder = write_case(tmp_path, "p1_brain")
    (folder / "p1_brain_seg.nii.gz").rename(folder / f"{name}.nii.gz")
    _, scans = read(tmp_path)
    np.testing.assert_array_equal(scans[0].classes, classes())


def test_a_link_to_a_folder_is_a_case_of_its_own_name(tmp_path):
    for patient in ("1", "2"):
        scans = write_case(tmp_path / "store" / patient, "x").rename(
            tmp_path / "store" / patient / "scans"
        )
        for path in scans.iterdir():
            path.rename(scans / path.name.removeprefix("x_"))
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"patient-{patient}").symlink_to(scans)
    assert [case.name for case in find_cases([tmp_path / "set"]).cases] == [
        "patient-1",
        "patient-2",
    ]


def test_labels_that_cover_the_brain_are_refused_by_name(tmp_path):
    folder = write_case(tmp_path, "x")
    (folder / "x_seg.nii.gz").unlink()
    write(folder / "x_mask.nii.gz", (volumes()[0] > 0).astype(np.uint8))
    with pytest.raises(ValueError, match="x_mask.nii.gz calls 100 % of the brain tumour"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["x-t1n_seg", "x-seg", "x-t1c_seg"])
def test_tissues_of_the_brain_are_not_taken_for_tumour(name, tmp_path):
    """As FAST leaves them beside the scan: fluid, grey matter, white matter, three labels as a tumour has."""
    folder = write_case(tmp_path, "x", NEW, (1, 2, 3), "-")
    (folder / "x-seg.nii.gz").unlink()
    bright = volumes()[1]
    tissues = (bright > 0) * (1 + (bright > 300) + (bright > 600))
    write(folder / f"{name}.nii.gz", tissues.astype(np.uint8))
    if name == "x-t1n_seg":
        found, scans = read(tmp_path)
        assert scans[0].classes is None
        assert "x-t1n_seg.nii.gz is taken for tissues of the brain" in str(found)
        return
    with pytest.raises(ValueError, match="100 % of the brain tumour: .*tissues, not labels"):
        read(tmp_path)


def test_the_tumour_is_told_from_what_else_is_segmented(tmp_path):
    words = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1c", "t2": "T2"}
    for patient in ("p1", "p2"):
        folder = write_case(tmp_path, patient, words)
        brain = (volumes()[0] > 0).astype(np.uint8)
        for name in ("brain_segmentation", "brain_parenchyma_segmentation"):
            write(folder / f"{patient}_{name}.nii.gz", brain)
        labels = folder / f"{patient}_seg.nii.gz"
        labels.rename(folder / f"{patient}_tumor_segmentation.nii.gz")
    (folder / "p2_tumor_segmentation.nii.gz").unlink()
    found, scans = read(tmp_path)
    assert found.convention.name == "brats2021"
    assert found.unclear == [
        line for line in found.unclear if line.startswith("p2 is without labels")
    ]
    np.testing.assert_array_equal(scans[0].classes, classes())
    assert scans[1].classes is None


def test_labels_that_several_files_may_hold_are_asked_for(tmp_path):
    for patient in ("p1", "p2"):
        folder = write_case(tmp_path, patient)
        for name in ("W39", "W40"):
            write(folder / f"{name}_Segm.nii.gz", classes())
        (folder / f"{patient}_seg.nii.gz").unlink()
    found, scans = read(tmp_path)
    assert [scan.classes for scan in scans] == [None, None]
    assert "p1 is without labels: they may be W39_Segm.nii.gz or W40_Segm.nii.gz" in str(found)
    assert find_cases([tmp_path, tmp_path]).unclear == found.unclear
    assert "and so in 1 more" in str(found)


@pytest.mark.parametrize("address", ["set", "set/imagesTr", "set/imagesTr/B_1.nii.gz", ".", "link", "linked"])  # fmt: skip
def test_a_decathlon_is_the_same_however_it_is_addressed(address, tmp_path, monkeypatch):
    write_decathlon(tmp_path / "set", "B_1")
    (tmp_path / "set" / "dataset.json").write_text(
        json.dumps({"modality": {"0": "T2w", "1": "T1gd", "2": "T1w", "3": "FLAIR"}})
    )
    (tmp_path / "link").symlink_to(tmp_path / "set" / "imagesTr")
    (tmp_path / "linked").symlink_to(tmp_path / "set")
    monkeypatch.chdir(tmp_path / "set" / "imagesTr" if address == "." else tmp_path)
    found, scans = read(Path(address))
    np.testing.assert_array_equal(scans[0].x, volumes()[::-1])
    np.testing.assert_array_equal(scans[0].classes, classes())
    assert "four volumes a file (t2, t1ce, t1, flair)" in str(found)


def test_what_lies_beside_a_decathlon_keeps_none_of_it_from_being_read(tmp_path):
    write_decathlon(tmp_path, "B_1")
    write(tmp_path / "atlas" / "MNI152_T1.nii.gz", volumes()[0])
    write_case(tmp_path / "split", "B_1")
    write_case(tmp_path / "more", "x")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["B_1", "x"] and not found.refused
    assert found.cases[0].stacked
    (remark,) = found.remarks
    assert remark == "left out beside imagesTr: B_1, which is in imagesTr, and 1 more"


def test_a_decathlon_is_found_below_a_folder(tmp_path):
    write_decathlon(tmp_path / "sets" / "Task01", "B_1")
    found, scans = read(tmp_path / "sets")
    np.testing.assert_array_equal(scans[0].classes, classes())
    assert found.layout == "Decathlon, four volumes a file (flair, t1, t1ce, t2)"


def test_a_case_is_called_by_its_folder_wherever_it_is_looked_at_from(tmp_path, monkeypatch):
    folder = write_case(tmp_path, "x")
    for path in folder.iterdir():
        path.rename(folder / path.name.removeprefix("x_"))
    monkeypatch.chdir(folder)
    for inputs in ([Path(".")], [Path(f"{word}.nii.gz") for word in OLD]):
        assert [case.name for case in find_cases(inputs).cases] == ["x"]


def test_what_lies_beside_a_case_and_is_none_of_ours_is_passed_over(tmp_path):
    folder = write_case(tmp_path, "x")
    write(folder / "x_1Warp.nii.gz", np.zeros((*SHAPE, 1, 3), np.float32))
    write(folder / "dti.nii.gz", np.zeros((*SHAPE, 4), np.float32))
    write(tmp_path / "logs" / "localizer.nii.gz", np.zeros((*SHAPE[:2], 1), np.float32))
    (tmp_path / "logs" / "broken.nii").write_bytes(b"?")
    found, scans = read(tmp_path)
    assert [scan.name for scan in scans] == ["x"] and not found.refused


@pytest.mark.parametrize("listed", [False, True])
def test_four_directions_of_diffusion_are_not_a_case(listed, tmp_path):
    write_case(tmp_path / "sub-01", "anat")
    four = np.moveaxis(volumes(), 0, -1)
    write(tmp_path / "sub-01" / "dwi" / "sub-01_dwi.nii.gz", four)
    if listed:  # then it is said what the volumes are
        order = {"modality": dict(enumerate(("FLAIR", "T1w", "t1gd", "T2w")))}
        (tmp_path / "sub-01" / "dwi" / "dataset.json").write_text(json.dumps(order))
    write_decathlon(tmp_path / "Task01", "B_1")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["B_1", "anat", *["sub-01_dwi"] * listed]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("place", ["extra", "."])
def test_files_of_four_volumes_are_cases_beside_one_that_is_no_case(tmp_path, place, named):
    for name in ("p0", "p1"):
        write(tmp_path / f"{name}.nii.gz", np.moveaxis(volumes(), 0, -1))
    write(tmp_path / place / "atlas_t1.nii.gz", volumes()[0])
    found = find_cases([tmp_path] if not named else sorted(tmp_path.rglob("*.nii.gz")))
    assert [case.name for case in found.cases] == ["p0", "p1"] and list(found.refused) == ["atlas"]


def test_what_is_passed_over_is_said_and_taken_where_it_is_named(tmp_path):
    folder = write_case(tmp_path / "sub-01", "anat")
    stack = tmp_path / "sub-01" / "dwi" / "stack.nii.gz"
    write(stack, np.moveaxis(volumes(), 0, -1))
    assert f"1 of four volumes a file, such as {stack}" in str(find_cases([tmp_path]))
    named = find_cases([stack, *sorted(folder.glob("*.nii.gz"))])
    assert [case.name for case in named.cases] == ["anat", "stack"] and not named.passed


def test_a_broken_file_is_refused_where_nothing_else_tells_what_is_wanted(tmp_path):
    write(tmp_path / "a.nii.gz", np.moveaxis(volumes(), 0, -1))
    (tmp_path / "b.nii.gz").write_bytes(b"?")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["a"] and list(found.refused) == ["b"]


def test_a_name_that_is_not_unicode_is_refused_in_words_that_are(tmp_path):
    write_case(tmp_path, "good")
    try:
        write_case(tmp_path, os.fsdecode(b"M\xfcller"))
    except OSError:
        pytest.skip("this file system takes no such name")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["good"]
    (name,) = found.refused
    assert name.isascii() and "UTF-8" in found.refused[name]


def test_children_are_told_by_their_names(tmp_path):
    write_case(tmp_path, "BraTS-PED-00001-000", NEW, (2, 4, 1), "-")
    found, scans = read(tmp_path)
    assert found.convention is CONVENTIONS["peds2024"]
    np.testing.assert_array_equal(scans[0].classes, classes())


def test_files_that_were_not_fetched_refuse_their_case_by_name(tmp_path):
    """As links of a clone by git-annex, that lead nowhere yet."""
    for name, word in (("a", ""), ("b", "seg"), ("c", "t1")):
        folder = write_case(tmp_path, name)
        if word:
            path = folder / f"{name}_{word}.nii.gz"
            path.unlink()
            path.symlink_to(tmp_path / ".git" / "annex" / path.name)
    found = settle(find_cases([tmp_path]))
    assert [scan.name for scan in read_scans(found, skip_bad=True)] == ["a"]
    assert found.refused == {
        "b": "b_seg.nii.gz does not exist",
        "c": "c_t1.nii.gz does not exist",
    }


class Listed:
    """What os.scandir gives, in an order of one's own."""

    def __init__(self, entries):
        self.entries = iter(entries)

    def __iter__(self):
        return self.entries

    def __next__(self):
        return next(self.entries)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_links_to_a_folder_always_the_same_names_its_case(backwards, tmp_path, monkeypatch):
    scans = write_case(tmp_path / "store", "x")
    for path in scans.iterdir():
        path.rename(scans / path.name.removeprefix("x_"))
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(scans)
    real = os.scandir

    def listed(place):
        with real(place) as entries:
            return Listed(sorted(entries, key=lambda each: each.name, reverse=backwards))

    monkeypatch.setattr(os, "scandir", listed)
    assert [case.name for case in find_cases([tmp_path / "set"]).cases] == ["a"]


def test_links_are_followed_and_one_that_leads_back_ends(tmp_path):
    write_case(tmp_path / "store", "a")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    assert [case.name for case in find_cases([tmp_path / "set"]).cases] == ["a"]
