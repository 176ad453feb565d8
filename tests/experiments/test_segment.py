"""Segmenting: predictions come back in the input's own space and labels; nothing else is touched."""

from __future__ import annotations

import json
import os
import resource
import signal

import nibabel
import numpy as np
import pytest
import tomli_w
import torch
from disks import files_of_at_most
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import NEW, OLD, RAS, SHAPE, volumes, write, write_case, write_decathlon
from torch import nn

from keelnet.experiments import overlays
from keelnet.experiments.evaluate import evaluate
from keelnet.experiments.problems import network_of
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.runs import weights_as_bytes
from keelnet.experiments.segment import segment, segmenting_of
from keelnet.experiments.segmenting import Rules, Segmenting
from keelnet.experiments.tiles import Tiling


class Thresholds(nn.Module):
    """Regions by the sign of modalities: local, so tiles, turns and mirrors cannot change it."""

    def forward(self, x):
        return torch.stack([x[:, 0] + 0.3, x[:, 1] + 0.2, x[:, 2]], 1)


def thresholds(**changes):
    return Segmenting(Thresholds(), tiling=Tiling((16, 16, 16), 4, 8), **changes)


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take longer than all else."""
    monkeypatch.setattr(overlays, "planes_picture", lambda scan, classes: b"")


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}  # fmt: skip


def labels_of(path):
    image = nibabel.load(path)
    assert image.get_data_dtype() == np.uint8
    return np.asarray(image.dataobj), image.affine


def test_the_space_and_order_of_axes_are_the_inputs_own(tmp_path):
    turn = np.array([[-2.0, 0, 0, 30], [0, -2, 0, 20], [0, 0, 2, -9], [0, 0, 0, 1]])
    oblique = RAS.copy()
    angle = np.deg2rad(12)
    oblique[:2, :2] = 2 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    swapped = np.array([[0, 0, 2.0, 1], [-2, 0, 0, 5], [0, 2, 0, 3], [0, 0, 0, 1]])
    affines = {"ras": RAS, "lps": turn, "oblique": oblique, "swapped": swapped}
    for name, affine in affines.items():
        way = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(RAS), nibabel.io_orientation(affine)
        )
        for modality, values in zip(OLD, volumes(0), strict=True):
            turned = nibabel.orientations.apply_orientation(values, way)
            write(tmp_path / "in" / name / f"{name}_{modality}.nii.gz", turned, affine)
    assert len(list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out"))) == 4
    reference = labels_of(tmp_path / "out" / "ras.nii.gz")[0]
    assert len(np.unique(reference)) >= 3
    for name, affine in affines.items():
        found, own = labels_of(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_allclose(own, affine, atol=1e-5)
        canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(found, affine))
        np.testing.assert_array_equal(np.asarray(canonical.dataobj), reference)


@pytest.mark.parametrize("which", [("flair",), ("t1", "seg"), ("flair", "t1", "t1ce", "seg")])
def test_labels_come_back_in_the_space_of_the_first_file_however_the_others_lie(
    which, tmp_path, undrawn
):
    case = write_case(tmp_path / "in", "a")
    list(segment(thresholds(), [case], tmp_path / "plain"))
    reference = nibabel.load(tmp_path / "plain" / "a.nii.gz")
    for number, word in enumerate(which):
        path = case / f"a_{word}.nii.gz"
        turn = np.array([[2, -1], [0, 1], [1, -1]] if number else [[1, 1], [0, -1], [2, 1]])
        nibabel.save(nibabel.load(path).as_reoriented(turn), path)
    list(segment(thresholds(), [case], tmp_path / "out"))
    found, affine = labels_of(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_allclose(affine, nibabel.load(case / "a_flair.nii.gz").affine, atol=1e-5)
    back = nibabel.as_closest_canonical(nibabel.Nifti1Image(found, affine))
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(reference.dataobj))


def test_labels_are_written_as_the_set_is_named(tmp_path):
    write_case(tmp_path / "old", "a", OLD)
    write_case(tmp_path / "new", "a", NEW, separator="-")
    write_decathlon(tmp_path / "msd", "a")
    values = {}
    for name in ("old", "new", "msd"):
        (done,) = segment(thresholds(), [tmp_path / name], tmp_path / "out" / name)
        values[name] = labels_of(tmp_path / "out" / name / done.file)[0]
    assert set(np.unique(values["old"])) == {0, 1, 2, 4}
    assert set(np.unique(values["new"])) == {0, 1, 2, 3}
    np.testing.assert_array_equal(values["old"] == 4, values["new"] == 3)
    np.testing.assert_array_equal(values["msd"] == 1, values["new"] == 2)
    (done,) = segment(thresholds(), [tmp_path / "old"], tmp_path / "asked", labels="msd")
    np.testing.assert_array_equal(labels_of(tmp_path / "asked" / done.file)[0], values["msd"])


@pytest.mark.parametrize("spacing", [None, 4.0, 3.0, 1.0])
def test_at_any_spacing_labels_fill_the_scans_own_grid(tmp_path, spacing):
    write_case(tmp_path / "in", "a b ü")
    (done,) = segment(thresholds(spacing=spacing), [tmp_path / "in"], tmp_path / "out")
    found, _ = labels_of(tmp_path / "out" / done.file)
    assert found.shape == SHAPE
    assert not found[0].any()  # where every modality is 0
    stored = json.loads((tmp_path / "out" / "volumes.json").read_text())["a b ü"]
    ml = (found > 0).sum() * 8 / 1000
    assert stored["regions_ml"]["WT"] == pytest.approx(ml, abs=1e-3)
    assert sum(stored["classes_ml"].values()) == pytest.approx(ml, abs=2e-3)
    assert (tmp_path / "out" / "a b ü.png").read_bytes().startswith(b"\x89PNG")


def test_mirror_images_change_nothing_for_what_is_local(tmp_path):
    write_case(tmp_path / "in", "a")
    plain, mirrored = (
        labels_of(tmp_path / name / next(segment(each, [tmp_path / "in"], tmp_path / name)).file)[0]
        for name, each in (("one", thresholds()), ("eight", thresholds(mirrored=True)))
    )
    np.testing.assert_array_equal(plain, mirrored)


@given(seed=st.integers(0, 2**31), smallest=st.floats(0, 0.05), empty=st.floats(0, 0.05))
@settings(max_examples=40, deadline=None)
def test_rules_only_take_away_and_do_so_once(seed, smallest, empty):
    classes = np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 3], (6, 7, 8)).astype(np.uint8)
    rules = Rules(smallest, empty)
    once = rules.applied(classes, 1e-3)
    assert not (once > 0)[classes == 0].any()
    np.testing.assert_array_equal(rules.applied(once, 1e-3), once)
    assert (once == 3).sum() * 1e-3 >= empty * (1 - 1e-5) or not (once == 3).any()
    np.testing.assert_array_equal(Rules().applied(classes, 1e-3), classes)


def test_small_tumours_go_and_little_enhancement_is_necrosis():
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[1:5, 1:5, 1:5], classes[2, 2, 2] = 2, 3
    classes[7, 7, 7] = 3
    found = Rules(smallest=0.002, empty_et=0.002).applied(classes, 1e-3)
    assert found[7, 7, 7] == 0 and found[2, 2, 2] == 1 and found[1, 1, 1] == 2


@pytest.mark.parametrize("voxel_ml", [1e-3 * (1 - 2e-7), 1e-3, 1e-3 * (1 + 2e-7)])
def test_what_is_just_as_large_as_the_rules_say_stays_on_every_grid(voxel_ml):
    """Affines are stored in float32: on oblique grids 50 voxels of 1 mm are 0.05 ml within rounding."""
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[2:7, 2:7, 2:4] = 3
    rules = Rules(smallest=0.05, empty_et=0.05)
    np.testing.assert_array_equal(rules.applied(classes, voxel_ml), classes)
    classes[2, 2, 2] = 0
    assert not rules.applied(classes, voxel_ml).any()


def test_bad_cases_stop_the_work_before_it_begins_or_are_left_out(tmp_path):
    write_case(tmp_path / "in", "a")
    write_case(tmp_path / "in", "b")
    (tmp_path / "in" / "b" / "b_t1.nii.gz").unlink()
    with pytest.raises(ValueError, match="case b: t1 missing.*--skip-bad"):
        list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    write(tmp_path / "in" / "c" / "c_t2.nii.gz", np.zeros(SHAPE, np.float32))
    heard: list[str] = []
    left_out: list[str] = []
    work = segment(thresholds(), [tmp_path / "in"], tmp_path / "out", None, True, False, heard.append, left_out)  # fmt: skip
    assert [each.name for each in work] == ["a"]
    assert left_out == ["b", "c"]
    assert any("left out b" in line for line in heard) and any(
        "left out c" in line for line in heard
    )


@pytest.mark.parametrize("damage", ["truncated", "nan", "zero", "slice", "five", "apart"])
def test_what_cannot_be_read_is_one_sentence_and_leaves_nothing(tmp_path, damage):
    case = write_case(tmp_path / "in", "a")
    path = case / "a_t2.nii.gz"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-60])
    elif damage == "apart":
        affine = RAS.copy()
        affine[0, 3] += 1.5
        write(path, volumes(0)[3], affine)
    else:
        values = {
            "nan": np.full(SHAPE, np.nan, np.float32),
            "zero": np.zeros(SHAPE, np.float32),
            "slice": np.ones((*SHAPE[:2], 1), np.float32),
            "five": np.ones((*SHAPE, 2, 2), np.float32),
        }[damage]
        write(path, values)
    with pytest.raises(ValueError, match="case a: "):
        list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out"))
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_that_holds_something_is_kept(tmp_path):
    write_case(tmp_path / "in", "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="--overwrite"):
        list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out"))
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == b"mine"
    list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out", overwrite=True))
    assert labels_of(tmp_path / "out" / "a.nii.gz")[0].shape == SHAPE


def test_volumes_of_other_cases_stay_with_their_labels(tmp_path):
    for seed, name in enumerate("abc"):
        write_case(tmp_path / name, name, seed=seed)
    out = tmp_path / "out"
    list(segment(thresholds(), [tmp_path / "a", tmp_path / "b"], out))
    before = json.loads((out / "volumes.json").read_text())
    (out / "b.nii.gz").unlink()
    list(segment(thresholds(), [tmp_path / "c"], out, overwrite=True))
    after = json.loads((out / "volumes.json").read_text())
    assert set(after) == {"a", "c"} and after["a"] == before["a"]


def test_what_is_finished_stays_where_a_later_case_fails(tmp_path, undrawn):
    for seed, name in enumerate("abc"):
        write_case(tmp_path / "in", name, seed=seed)
    out = tmp_path / "out"
    list(segment(thresholds(), [tmp_path / "in"], out, "msd"))
    before = files_in(out)
    path = tmp_path / "in" / "b" / "b_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])  # which no header tells
    work = segment(thresholds(), [tmp_path / "in"], out, "brats2021", overwrite=True)
    assert next(work).name == "a" and set(np.unique(labels_of(out / "a.nii.gz")[0])) == {0, 1, 2, 4}
    with pytest.raises(ValueError, match="case b: b_t2.nii.gz cannot be read"):
        next(work)
    after = files_in(out)
    assert {name for name in before if after[name] != before[name]} == {"a.nii.gz", "volumes.json"}
    about = json.loads(after["volumes.json"])
    assert {name: each["labels"] for name, each in about.items()} == {"a": "brats2021", "b": "msd", "c": "msd"}  # fmt: skip
    work = segment(thresholds(), [tmp_path / "in"], out, overwrite=True)
    next(work)
    work.close()
    assert set(files_in(out)) == set(before)  # nothing of unfinished work


@pytest.mark.parametrize("damage", ["header", "voxels"])
@pytest.mark.parametrize("bad", ["a", "c"])
def test_old_labels_of_a_case_that_is_left_out_go(tmp_path, undrawn, damage, bad):
    for seed, name in enumerate("abcd"):
        write_case(tmp_path / ("other" if name == "d" else "in"), name, seed=seed)
    out = tmp_path / "out"
    list(segment(thresholds(), [tmp_path / "in", tmp_path / "other"], out))
    path = tmp_path / "in" / bad / f"{bad}_t2.nii.gz"
    path.write_bytes(b"" if damage == "header" else path.read_bytes()[:-40])
    (out / "notes.txt").write_text("mine")
    heard: list[str] = []
    list(
        segment(
            thresholds(),
            [tmp_path / "in"],
            out,
            skip_bad=True,
            overwrite=True,
            report=heard.append,
        )
    )
    left = {*"abcd"} - {bad}
    files = {f"{name}.{kind}" for name in left for kind in ("nii.gz", "png")}
    assert set(files_in(out)) == files | {"volumes.json", "notes.txt"}
    assert set(json.loads((out / "volumes.json").read_text())) == left
    assert any(f"labels of {bad} from an earlier run are taken away" in line for line in heard)


def test_only_what_was_listed_goes_with_a_case_that_is_left_out(tmp_path, undrawn):
    for name in "ab":
        write_case(tmp_path / "in", name)
    (tmp_path / "in" / "b" / "b_t2.nii.gz").unlink()
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.nii.gz").write_bytes(b"mine")
    list(segment(thresholds(), [tmp_path / "in"], out, skip_bad=True, overwrite=True))
    assert files_in(out)["b.nii.gz"] == b"mine"


BROKEN = {  # labels that say nothing of the scans beside them
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "empty": lambda path: path.write_bytes(b""),
    "of another shape": lambda path: write(path, np.zeros((4, 4, 4), np.uint8)),
    "elsewhere": lambda path: write(path, np.zeros(SHAPE, np.uint8), np.eye(4)),
    "two volumes": lambda path: write(path, np.zeros((*SHAPE, 2), np.uint8)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_labels_keep_no_scan_from_being_labelled(tmp_path, undrawn, how):
    BROKEN[how](write_case(tmp_path / "in", "a") / "a_seg.nii.gz")
    (done,) = segment(thresholds(), [tmp_path / "in"], tmp_path / "out")
    assert done.convention == "brats2021"
    assert labels_of(tmp_path / "out" / done.file)[0].shape == SHAPE
    with pytest.raises(ValueError, match="a_seg.nii.gz|no case"):  # who needs them
        list(evaluate(thresholds(), "run", [tmp_path / "in"], tmp_path / "scores"))


def test_labels_that_are_not_read_are_not_written_over_either(tmp_path):
    write_decathlon(tmp_path / "in", "a")
    path = tmp_path / "in" / "labelsTr" / "a.nii.gz"
    for content in (path.read_bytes(), b"broken"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.nii.gz is an input"):
            list(segment(thresholds(), [tmp_path / "in"], path.parent, overwrite=True))
        assert path.read_bytes() == content


def test_a_file_among_the_scans_is_replaced_only_if_it_is_ours(tmp_path, undrawn):
    write_case(tmp_path / "in", "a")
    out = tmp_path / "in" / "a"
    for name in ("a.nii.gz", "a.png", "volumes.json"):
        (out / name).write_bytes(b"mine")
        before = files_in(out)
        with pytest.raises(ValueError, match=f"{name} lies beside the scans.*--out"):
            list(segment(thresholds(), [tmp_path / "in"], out, overwrite=True))
        assert files_in(out) == before
        (out / name).unlink()
    for labels in ("brats2021", "msd"):  # the second time they are ours
        list(segment(thresholds(), [out], out, labels, overwrite=True))
        assert json.loads((out / "volumes.json").read_text())["a"]["labels"] == labels


def test_an_input_is_never_written_over(tmp_path):
    for name in ("in", "imagesTr"):  # four volumes a file, called as the result would be
        path = write(tmp_path / name / "a.nii.gz", np.moveaxis(volumes(), 0, -1))
        (tmp_path / "link").symlink_to(path.parent)
        before = path.read_bytes()
        for out in (path.parent, tmp_path / "link"):
            with pytest.raises(ValueError, match="a.nii.gz is an input.*--out"):
                list(segment(thresholds(), [path.parent], out, overwrite=True))
        assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
        (tmp_path / "link").unlink()


def listed(table, paths):
    """A table of files whose names tell nothing."""
    for number, path in enumerate(paths):
        path.rename(table.parent / f"{number}.nii.gz")
    columns = ("case", "flair", "t1", "t1ce", "t2", "seg")[: 1 + len(paths)]
    cells = ("c", *(f"{number}.nii.gz" for number in range(len(paths))))
    table.write_text(f"{','.join(columns)}\n{','.join(cells)}\n")
    return table


@pytest.mark.parametrize(
    ("values", "fitting"), [((1, 3, 4), "brats2024"), ((1, 2, 3), "brats2023")]
)
def test_cases_of_a_table_come_back_as_labels_that_theirs_can_be(
    tmp_path, undrawn, values, fitting
):
    words = ("flair", "t1", "t1ce", "t2", "seg")
    case = write_case(tmp_path / "in", "a", values=values)
    source = listed(tmp_path / "scans.csv", [case / f"a_{word}.nii.gz" for word in words])
    heard: list[str] = []
    work = segment(thresholds(labels="brats2024"), [source], tmp_path / "out", report=heard.append)
    assert [done.convention for done in work] == ["brats2024"]
    assert any("not clear" in line and "written as brats2024, as those" in line for line in heard)
    work = segment(thresholds(labels="brats2021"), [source], tmp_path / "two", report=heard.append)
    assert [done.convention for done in work] == [fitting]  # theirs cannot be those of 2021
    assert f"written as {fitting}, say otherwise" in heard[-1]


PICTURE = bytes(range(256)) * 4


@pytest.fixture
def before_b(tmp_path, monkeypatch):
    """Work on a and b that has just finished a, and what lies there once both are finished."""
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "in", name, seed=seed)
    monkeypatch.setattr(overlays, "planes_picture", lambda scan, classes: PICTURE)
    list(segment(thresholds(), [tmp_path / "in"], tmp_path / "whole"))
    work = segment(thresholds(), [tmp_path / "in"], tmp_path / "out")
    next(work)
    yield work, files_in(tmp_path / "whole")
    work.close()


# Bytes of a file that are written at most, and of b what is then whole.
CUT = [(0, set()), (100, set()), (len(PICTURE) - 1, {"b.nii.gz"})]


@pytest.mark.parametrize(("size", "whole"), CUT)
def test_a_full_disk_leaves_no_half_written_file(size, whole, tmp_path, before_b):
    work, expected = before_b
    before = files_in(tmp_path / "out")
    with files_of_at_most(size), pytest.raises(ValueError, match="cannot be written: File too large"):  # fmt: skip
        next(work)
    assert files_in(tmp_path / "out") == before | {name: expected[name] for name in whole}


def killed_amid_a_write(work):
    """In a process of its own, which the system ends at once where a file gets too large."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            next(work)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGXFSZ


@pytest.mark.parametrize(("size", "whole"), CUT)
def test_a_kill_leaves_no_half_written_file_under_its_name(size, whole, tmp_path, before_b):
    work, expected = before_b
    before = files_in(tmp_path / "out")
    with files_of_at_most(size):
        assert killed_amid_a_write(work)
    work.close()
    left = {name: content for name, content in files_in(tmp_path / "out").items() if name[0] != "."}
    assert left == before | {name: expected[name] for name in whole}
    list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out", overwrite=True))
    assert files_in(tmp_path / "out").items() >= expected.items()


class Overflowing(Thresholds):
    """One value of the second case's logits is not finite."""

    def __init__(self, value):
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, x):
        logits, self.calls = super().forward(x), self.calls + 1
        if self.calls == 2:
            logits[0, 2, 3, 3, 3] = self.value
        return logits


@pytest.mark.parametrize("spacing", [None, 3.0])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_that_gives_no_number_labels_nothing(value, spacing, tmp_path):
    for name in "abc":
        write_case(tmp_path / "in", name)

    def overflowing():
        return Segmenting(Overflowing(value), spacing, tiling=Tiling((16, 16, 16), 4, 8))

    with pytest.raises(ValueError, match="case b: the network gives NaN or infinity"):
        list(segment(overflowing(), [tmp_path / "in"], tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz"}
    heard: list[str] = []
    left_out: list[str] = []
    done = segment(overflowing(), [tmp_path / "in"], tmp_path / "rest", None, True, False, heard.append, left_out)  # fmt: skip
    assert [each.name for each in done] == ["a", "c"] and left_out == ["b"]
    assert any("left out b: the network gives NaN" in line for line in heard)


def finished(folder, device="cpu", labels=None):
    """A run folder as training leaves it, with the weights that it begins with."""
    recipe = recipe_named("tumour").with_settings(["width=4,8", "depth=1,1", "folds=0", "rise=0"])
    folder.mkdir()
    network = network_of(recipe)
    (folder / "weights.safetensors").write_bytes(weights_as_bytes(network.state_dict()))
    table = tomli_w.dumps(recipe.as_table() | {"device": device, "patch": [16]})
    (folder / "recipe.toml").write_text(table)
    (folder / "scores.json").write_text("{}")
    (folder / "history.jsonl").write_text("{}\n")
    if labels is not None:
        (folder / "split.json").write_text(json.dumps({"labels": labels}))
    return folder


OPEN = {  # what the network was trained on, which names: what is written, and what is said
    "children, as trained": ("peds2024", "BraTS-PED-00001-000", "peds2024", "was trained on"),
    "children, by default": (None, "BraTS-PED-00001-000", "brats2023", "otherwise with --labels"),
    "children, as adults": ("msd", "BraTS-PED-00001-000", "brats2023", "otherwise with --labels"),
    "listed, as trained": ("msd", None, "msd", "as those that the network was trained on"),
    "listed, by default": (None, None, "brats2023", "say otherwise with --labels"),
}


@pytest.mark.parametrize("which", OPEN)
def test_what_names_leave_open_is_written_as_trained_and_said(which, tmp_path):
    trained, name, written, said = OPEN[which]
    case = write_case(tmp_path / "in", name or "a", NEW, (1, 2, 3), "-")
    (case / f"{name or 'a'}-seg.nii.gz").unlink()
    source = tmp_path / "in"
    if name is None:
        for word in NEW.values():
            (case / f"a-{word}.nii.gz").rename(case / f"{word}-1.nii.gz")
        cells = ",".join(("a", *(f"in/a/{word}-1.nii.gz" for word in NEW.values())))
        source = tmp_path / "scans.csv"
        source.write_text(",".join(("case", *NEW)) + f"\n{cells}\n")
    carried = segmenting_of(finished(tmp_path / "run", labels=trained)).labels
    assert carried == trained
    heard: list[str] = []
    (done,) = segment(thresholds(labels=carried), [source], tmp_path / "out", report=heard.append)
    assert done.convention == written
    (line,) = (line for line in heard if "written as" in line)
    assert f"left open by names; written as {written}, " in line and said in line
    (done,) = segment(thresholds(), [source], tmp_path / "asked", "brats2021", report=heard.append)
    assert done.convention == "brats2021" and len(heard) == 3


CONTRADICTED = {  # names, values of the labels that lie there, trained on: what is written, and what is said
    "as trained": (OLD, (1, 2, 3), "brats2023", "brats2023", "as those that the network"),
    "as trained elsewhere": (OLD, (1, 2, 3), "msd", "msd", "as those that the network"),
    "by default": (OLD, (1, 2, 3), None, "brats2021", "otherwise with --labels"),
    "trained on neither": (OLD, (1, 2, 3), "brats2021", "brats2021", "otherwise with --labels"),
    "not as trained": (NEW, (1, 2, 4), "brats2023", "brats2023", "otherwise with --labels"),
    "part of the values": (OLD, (1, 2, 2), "brats2023", "brats2021", None),
    "as named": (OLD, (1, 2, 4), "brats2023", "brats2021", None),
    "no labels": (
        OLD,
        None,
        "brats2023",
        "brats2021",
        "though the network was trained on brats2023",
    ),
    "no labels, the same": (NEW, None, "brats2024", "brats2023", None),
}


@pytest.mark.parametrize("which", CONTRADICTED)
def test_labels_that_lie_there_say_what_is_written(which, tmp_path, undrawn):
    words, values, trained, written, said = CONTRADICTED[which]
    case = write_case(tmp_path / "in", "a", words, values or (1, 2, 3))
    if values is None:
        (case / "a_seg.nii.gz").unlink()
    heard: list[str] = []
    work = segment(thresholds(labels=trained), [tmp_path / "in"], tmp_path / "out", report=heard.append)  # fmt: skip
    assert [done.convention for done in work] == [written]
    told = [line for line in heard if "written as" in line]
    assert len(told) == (said is not None) and (said is None or said in told[0])


@pytest.mark.parametrize("trained", [None, "brats2023", "msd"])
def test_masks_of_whole_tumours_contradict_no_names(trained, tmp_path, undrawn):
    for name in "abc":
        write_case(tmp_path / "in", name, OLD, (1, 1, 1))
    heard: list[str] = []
    work = segment(thresholds(labels=trained), [tmp_path / "in"], tmp_path / "out", report=heard.append)  # fmt: skip
    assert [done.convention for done in work] == ["brats2021"] * 3
    assert any("labelled 1 alone" in line for line in heard)


@pytest.mark.parametrize("mute", ["ab", "b"])
@pytest.mark.parametrize("trained", [None, "brats2023", "brats2021"])
def test_a_table_is_written_in_one_convention_that_has_its_values(mute, trained, tmp_path, undrawn):
    lines = [",".join(("case", *OLD, "seg"))]
    for name in "ab":
        case = write_case(tmp_path / "in", name, OLD, (1, 2, 4))
        ending = "_bias" * (name in mute)
        for word in OLD.values():
            (case / f"{name}_{word}.nii.gz").rename(case / f"{name}_{word}{ending}.nii.gz")
        files = (f"in/{name}/{name}_{word}{ending}.nii.gz" for word in OLD.values())
        lines.append(",".join((name, *files, f"in/{name}/{name}_seg.nii.gz")))
    (tmp_path / "scans.csv").write_text("\n".join([*lines, ""]))
    work = segment(thresholds(labels=trained), [tmp_path / "scans.csv"], tmp_path / "out")
    assert [done.convention for done in work] == ["brats2021"] * 2


def test_a_dataset_that_says_what_labels_mean_is_heeded(tmp_path, undrawn):
    write_decathlon(tmp_path / "in", "a")
    (tmp_path / "in" / "labelsTr" / "a.nii.gz").unlink()
    said = {"1": "necrosis", "2": "edema", "3": "enhancing tumor", "0": "background"}
    modalities = dict(enumerate(("FLAIR", "T1w", "t1gd", "T2w")))
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({"modality": modalities, "labels": said}))  # fmt: skip
    heard: list[str] = []
    work = segment(thresholds(labels="msd"), [tmp_path / "in"], tmp_path / "out", report=heard.append)  # fmt: skip
    assert [done.convention for done in work] == ["brats2023"]
    assert any("dataset.json tells of BraTS 2023" in line and "trained on msd" in line for line in heard)  # fmt: skip


def test_scans_with_two_files_of_labels_are_labelled_and_both_are_kept(tmp_path, undrawn):
    write_decathlon(tmp_path / "in", "a")
    labels = tmp_path / "in" / "labelsTr"
    write(labels / "a.nii", np.zeros(SHAPE, np.uint8))
    image = tmp_path / "in" / "imagesTr" / "a.nii.gz"
    image.rename(image.with_name("a.NII.GZ"))  # whose name neither has
    heard: list[str] = []
    work = segment(thresholds(), [tmp_path / "in"], tmp_path / "out", report=heard.append)
    assert [done.name for done in work] == ["a"]
    assert any("two files of labels" in line and "labelled without them" in line for line in heard)
    before = files_in(labels)
    with pytest.raises(ValueError, match="a.nii.gz lies beside the scans"):
        list(segment(thresholds(), [tmp_path / "in"], labels, overwrite=True))
    assert files_in(labels) == before


def test_each_naming_is_settled_by_itself(tmp_path, undrawn):
    write_case(tmp_path / "in", "old", OLD, (1, 2, 3))
    write_case(tmp_path / "in", "new", NEW, (1, 2, 3), "-")
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 3:6, 3] = 1, 3, 4
    write(tmp_path / "in" / "new" / "new-seg.nii.gz", labels)
    done = segment(thresholds(labels="msd"), [tmp_path / "in"], tmp_path / "out")
    assert {each.name: each.convention for each in done} == {"new": "brats2024", "old": "msd"}


def test_volumes_of_small_animals_are_not_rounded_away(tmp_path):
    write_case(tmp_path / "in", "a", affine=np.diag([0.1, 0.1, 0.1, 1.0]))
    (done,) = segment(thresholds(), [tmp_path / "in"], tmp_path / "out")
    count = (labels_of(tmp_path / "out" / done.file)[0] > 0).sum()
    stored = json.loads((tmp_path / "out" / "volumes.json").read_text())["a"]
    assert stored["regions_ml"]["WT"] == pytest.approx(count * 1e-6, rel=1e-5)
    assert sum(stored["classes_ml"].values()) == pytest.approx(count * 1e-6, rel=1e-5)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_split_is_named(content, tmp_path):
    run = finished(tmp_path / "run")
    (run / "split.json").write_text(content)
    with pytest.raises(ValueError, match=r"split\.json cannot be read .*train anew"):
        segmenting_of(run)


def test_what_was_recognised_is_said(tmp_path):
    write(tmp_path / "in" / "scan.nii.gz", np.moveaxis(volumes(), 0, -1))
    heard: list[str] = []
    list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out", report=heard.append))
    assert heard == ["1 case: Decathlon, four volumes a file (flair, t1, t1ce, t2)"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is meant")
def test_a_run_of_a_gpu_segments_on_a_machine_without_one(tmp_path):
    write_case(tmp_path / "in", "a")
    segmenting = segmenting_of(finished(tmp_path / "run", "cuda"))
    assert segmenting.device.type == "cpu"
    (done,) = segment(segmenting, [tmp_path / "in"], tmp_path / "out")
    assert labels_of(tmp_path / "out" / done.file)[0].shape == SHAPE


def test_only_runs_on_tumours_segment(tmp_path):
    with pytest.raises(ValueError, match="no run folder"):
        segmenting_of(tmp_path)
    for name, value in {"recipe.toml": "", "scores.json": "{}", "history.jsonl": "{}\n"}.items():
        (tmp_path / name).write_text(value)
    (tmp_path / "recipe.toml").write_text(
        'name = "digits"\ndata = "digits"\narchitecture = "hamiltonian"\n'
    )
    with pytest.raises(ValueError, match="trained on digits, not on tumours"):
        segmenting_of(tmp_path)


def test_a_set_to_test_on_that_is_left_out_is_said(tmp_path, undrawn):
    write_decathlon(tmp_path / "Task01", "A_1")
    four = np.stack(volumes(), axis=-1)
    write(tmp_path / "Task01" / "imagesTs" / "B_1.nii.gz", four)
    heard: list[str] = []
    done = segment(thresholds(), [tmp_path / "Task01"], tmp_path / "out", report=heard.append)
    assert len([*done]) == 1
    assert any("imagesTs, a set to test on; to read it, ask for" in line for line in heard)


def test_a_file_a_channel_is_labelled_as_four_volumes_are(tmp_path, undrawn):
    """A set to test on, as nnU-Net has it, and the same in the Decathlon's files."""
    place = tmp_path / "set" / "imagesTs"
    for number, values in enumerate(volumes()):
        write(place / f"a_000{number}.nii.gz", values)
    names = dict(enumerate(("FLAIR", "T1", "T1ce", "T2")))
    means = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}
    about = json.dumps({"channel_names": names, "labels": means})
    (tmp_path / "set" / "dataset.json").write_text(about)
    write_decathlon(tmp_path / "msd", "a")
    found = []
    for source, out in ((place, tmp_path / "out"), (tmp_path / "msd", tmp_path / "stacked")):
        (done,) = segment(thresholds(), [source], out)
        assert done.name == "a" and done.convention == "msd"
        found.append(labels_of(out / "a.nii.gz")[0])
    np.testing.assert_array_equal(*found)
