"""Segmenting: predictions come back in the input's own space and labels; nothing else is touched."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import NEW, OLD, RAS, SHAPE, volumes, write, write_case, write_decathlon
from torch import nn

from keelnet.experiments import segment as module
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
    assert (once == 3).sum() * 1e-3 >= empty or not (once == 3).any()
    np.testing.assert_array_equal(Rules().applied(classes, 1e-3), classes)


def test_small_tumours_go_and_little_enhancement_is_necrosis():
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[1:5, 1:5, 1:5], classes[2, 2, 2] = 2, 3
    classes[7, 7, 7] = 3
    found = Rules(smallest=0.002, empty_et=0.002).applied(classes, 1e-3)
    assert found[7, 7, 7] == 0 and found[2, 2, 2] == 1 and found[1, 1, 1] == 2


def test_bad_cases_stop_the_work_before_it_begins_or_are_left_out(tmp_path):
    write_case(tmp_path / "in", "a")
    write_case(tmp_path / "in", "b")
    (tmp_path / "in" / "b" / "b_t1.nii.gz").unlink()
    with pytest.raises(ValueError, match="case b: t1 missing.*--skip-bad"):
        list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    write(tmp_path / "in" / "c" / "c_t2.nii.gz", np.zeros(SHAPE, np.float32))
    heard: list[str] = []
    done = list(
        segment(
            thresholds(), [tmp_path / "in"], tmp_path / "out", skip_bad=True, report=heard.append
        )
    )
    assert [each.name for each in done] == ["a"]
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


def test_cases_of_a_table_come_back_as_their_labels_are(tmp_path):
    write_case(tmp_path, "a")
    columns = ("flair", "t1", "t1ce", "t2", "seg")
    line = ",".join(("c", *(f"a/a_{word}.nii.gz" for word in columns)))
    (tmp_path / "scans.csv").write_text(",".join(("case", *columns)) + f"\n{line}\n")
    (done,) = segment(thresholds(), [tmp_path / "scans.csv"], tmp_path / "out")
    assert done.convention == "brats2021"
    write_case(tmp_path, "a", values=(1, 2, 3))  # which settles nothing
    heard: list[str] = []
    (done,) = segment(thresholds(), [tmp_path / "scans.csv"], tmp_path / "two", report=heard.append)
    assert done.convention == "brats2023"
    assert any("not clear" in line and "written as brats2023" in line for line in heard)


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    write_case(tmp_path / "in", "a")
    write_case(tmp_path / "in", "b")
    real = module.write_labels

    def full(path, classes, geometry):
        if path.name == "b.nii.gz":
            raise OSError(28, "No space left on device")
        real(path, classes, geometry)

    monkeypatch.setattr(module, "write_labels", full)
    with pytest.raises(ValueError, match="No space left"):
        list(segment(thresholds(), [tmp_path / "in"], tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.nii.gz",
        "a.png",
        "volumes.json",
    }


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
    done = segment(overflowing(), [tmp_path / "in"], tmp_path / "rest", skip_bad=True, report=heard.append)  # fmt: skip
    assert [each.name for each in done] == ["a", "c"]
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
        cells = ",".join(("a", *(f"in/a/a-{word}.nii.gz" for word in NEW.values())))
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
