"""The shelf: runs are found while they are written, nothing else is, and labelled scans are shown as they lie."""

import io
import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scans import NEW, OLD, RAS, SHAPE, write, write_case
from shelves import LINE, write_labels, write_run
from torch import nn

from keelnet.app.charts import curve_options, score_table, volume_table
from keelnet.app.shelf import Shelf
from keelnet.app.slices import PLANE_NAMES, SHADES, labelled
from keelnet.data.cases import find_cases
from keelnet.data.scans import read_scan
from keelnet.experiments.segment import segment
from keelnet.experiments.segmenting import Segmenting
from keelnet.experiments.tiles import Tiling


def test_runs_are_found_at_any_depth_and_by_themselves(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "table" / "two" / "seed-0")
    write_run(tmp_path / "table" / "swiss_roll" / "depth-8" / "residual" / "seed-0")  # swept
    write_labels(tmp_path / "labels")
    (tmp_path / "notes").mkdir()
    names = {(entry.name, entry.kind) for entry in Shelf.asked(tmp_path).entries()}
    assert names == {
        ("one", "run"),
        ("table/two/seed-0", "run"),
        ("labels", "labels"),
        ("table/swiss_roll/depth-8/residual/seed-0", "run"),
    }
    (own,) = Shelf.asked(tmp_path / "one").entries()
    assert own.name == "one"
    with pytest.raises(ValueError, match="is no run folder below"):
        Shelf.asked(tmp_path).entry("../one")


@pytest.mark.parametrize(("asked", "name"), [(".", "run"), ("..", "table"), ("../link", "link")])
def test_a_run_that_is_named_by_where_one_stands_has_its_own_name(
    tmp_path, monkeypatch, asked, name
):
    for folder in ("table", "table/run", "table/.elsewhere"):
        write_run(tmp_path / folder)
    (tmp_path / "table" / "link").symlink_to(tmp_path / "table" / ".elsewhere")
    monkeypatch.chdir(tmp_path / "table" / "run")
    names = [entry.name for entry in Shelf.asked(Path(asked)).entries()]
    assert name in names and "" not in names
    assert Shelf.asked(Path(asked)).entry(name).history()
    if asked == "..":
        assert set(names) == {"table", "run", "link"}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="is no run folder and holds none: recipe.toml or volumes.json"
    ):
        Shelf.asked(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        Shelf.asked(tmp_path / "absent")
    assert Shelf(tmp_path / "absent").entries() == []


def test_a_folder_that_is_closed_hides_itself_alone(tmp_path, monkeypatch):
    write_run(tmp_path / "one")
    write_run(tmp_path / "locked" / "two")

    def refusing(real):
        def asked(path, *rest, **named):
            if "locked/" in f"{os.fspath(path)}/".removeprefix(str(tmp_path)):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *rest, **named)

        return asked

    for name in ("stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    assert [entry.name for entry in Shelf.asked(tmp_path).entries()] == ["one"]
    with pytest.raises(ValueError, match="is no folder"):
        Shelf.asked(tmp_path / "locked")


def test_a_run_that_vanishes_between_two_looks_is_left_out(tmp_path, monkeypatch):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two")
    (entry,) = [each for each in Shelf(tmp_path).entries() if each.name == "two"]
    real = os.scandir

    def listed(folder):
        found = list(real(folder))
        if folder == tmp_path:  # seen, and gone before it is looked into
            shutil.rmtree(tmp_path / "two", ignore_errors=True)
        return nullcontext(found)

    monkeypatch.setattr(os, "scandir", listed)
    assert [each.name for each in Shelf(tmp_path).entries()] == ["one"]
    assert entry.state() == "No epoch is finished yet." and entry.pictures() == []


def test_files_beside_runs_are_not_asked_what_they_are(tmp_path, monkeypatch):
    write_run(tmp_path / "one")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "linked").symlink_to(tmp_path / "one", target_is_directory=True)
    for number in range(200):
        (tmp_path / f"{number}.nii.gz").touch()
    real, asked = os.stat, []
    monkeypatch.setattr(os, "stat", lambda path, **named: asked.append(path) or real(path, **named))
    assert {entry.name for entry in Shelf(tmp_path).entries()} == {"one", "linked"}
    assert 0 < len(asked) < 30


def test_a_run_is_read_while_it_is_written(tmp_path):
    write_run(tmp_path / "run")
    (entry,) = Shelf(tmp_path).entries()
    assert "Epoch 1" in entry.state() and "in training" in entry.state()
    with (tmp_path / "run" / "history.jsonl").open("a") as file:
        file.write(json.dumps({**LINE, "epoch": 2}) + '\n{"epoch": 3, "ter')
    assert [line["epoch"] for line in entry.history()] == [1, 2]
    (tmp_path / "run" / "scores.json").write_text('{"best_epoch": 1')
    assert entry.table("scores.json") == {} and "Epoch 2" in entry.state()
    (tmp_path / "run" / "scores.json").write_text('{"best_epoch": 1, "validation_accuracy": 0.5}')
    assert entry.state() == "Finished: 2 epochs, the best was epoch 1."
    assert "validation accuracy" in score_table(entry) and "0.5" in score_table(entry)


def test_a_run_that_replaces_another_is_seen_where_it_is_written(tmp_path):
    write_run(tmp_path / "run", scores={"best_epoch": 1})
    write_run(tmp_path / "run" / ".unfinished", [LINE, {**LINE, "epoch": 2}])
    (entry,) = Shelf(tmp_path).entries()
    assert len(entry.history()) == 2 and "in training" in entry.state()


def test_curves_have_a_line_a_name_and_gaps_where_a_number_is_missing(tmp_path):
    lines = [LINE, {**LINE, "epoch": 2, "terms": {"loss": None, "smooth": 0.1}}]
    write_run(tmp_path / "run", lines)
    (entry,) = Shelf(tmp_path).entries()
    series = {each["name"]: each["data"] for each in curve_options(entry, "terms")["series"]}
    assert series == {"loss": [[1, 2.0], [2, None]], "smooth": [[1, None], [2, 0.1]]}
    assert curve_options(entry, "scores")["yAxis"]["type"] == "value"


def test_only_pictures_of_the_run_are_given_away(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "run" / "curves.png").write_bytes(b"x")
    (entry,) = Shelf(tmp_path).entries()
    assert entry.picture("curves.png").is_file()
    with pytest.raises(ValueError, match="holds no picture"):
        entry.picture("../secret.png")


def middle(marked):
    """Of the marked pixels: from the left and from below, as parts of the picture."""
    rows, columns = np.nonzero(marked)
    height, width = marked.shape
    return (columns.mean() + 0.5) / width, 1 - (rows.mean() + 0.5) / height


@pytest.mark.parametrize("with_scan", [True, False])
@pytest.mark.parametrize("plane", PLANE_NAMES)
def test_a_slice_shows_the_class_where_it_lies(tmp_path, plane, with_scan):
    write_labels(tmp_path / "labels")
    write_case(tmp_path / "scans", "a", NEW, separator="-")
    (entry,) = [each for each in Shelf(tmp_path).entries() if each.kind == "labels"]
    assert entry.cases() == ["a"] and entry.state() == "1 labelled cases"
    case = labelled(entry, "a", tmp_path / "scans" if with_scan else None)
    assert (case.x is not None) == with_scan
    place = case.fullest(plane)
    image = np.asarray(Image.open(io.BytesIO(case.picture(plane, place, "flair", 1.0))))
    right, up = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    voxels = 3.5, 4.5, 6.0  # the middle of the two in `write_labels`
    wanted = pytest.approx((voxels[right] / SHAPE[right], voxels[up] / SHAPE[up]), abs=0.01)
    assert middle((image == np.array(SHADES[1])).all(-1)) == wanted
    grey = np.where(case.classes > 0, 1, 2).astype(np.float32)
    shown = replace(case, x=np.stack([grey] * 4)).picture(plane, place, "flair", 0.0)
    assert middle((np.asarray(Image.open(io.BytesIO(shown))) == 128).all(-1)) == wanted
    other = np.asarray(Image.open(io.BytesIO(case.picture(plane, 0, "flair", 1.0))))
    assert not (other == np.array(SHADES[1])).all(-1).any()
    assert "edema" in volume_table(entry, "a")


def test_scans_are_shown_whatever_their_own_labels_are(tmp_path):
    """keelnet segment, which made those that are shown, does not look at them either."""
    write_labels(tmp_path / "labels")
    case = write_case(tmp_path / "scans", "a", NEW, separator="-")
    entry = Shelf(tmp_path).entry("labels")
    (case / "a-seg.nii.gz").write_bytes(b"cut off")
    assert labelled(entry, "a", tmp_path / "scans").x is not None


def test_labels_are_shown_where_the_folder_of_scans_holds_none(tmp_path):
    write_labels(tmp_path / "labels")
    (tmp_path / "scans").mkdir()
    assert labelled(Shelf(tmp_path).entry("labels"), "a", tmp_path / "scans").x is None


def test_what_segment_writes_is_shown_as_it_was_found(tmp_path):
    class Bright(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0] + 0.3, x[:, 1] + 0.2, x[:, 2]], 1)

    write_case(tmp_path / "scans", "a", OLD)
    segmenting = Segmenting(Bright(), tiling=Tiling((16, 16, 16), 4, 8))
    assert len(list(segment(segmenting, [tmp_path / "scans"], tmp_path / "out"))) == 1
    (entry,) = Shelf.asked(tmp_path / "out").entries()
    case = labelled(entry, "a", tmp_path / "scans")
    (seen,) = find_cases([tmp_path / "scans"]).cases
    np.testing.assert_array_equal(case.classes, segmenting.classes(read_scan(seen, None)))
    assert set(np.unique(case.classes)) >= {0, 2, 3} and case.x is not None


def test_labels_that_are_written_again_are_read_again(tmp_path):
    write_labels(tmp_path)
    (entry,) = Shelf(tmp_path).entries()
    before = labelled(entry, "a", None)
    assert labelled(entry, "a", None) is before and before.classes[3, 4, 5] == 2
    write(tmp_path / "a.nii.gz", np.full(SHAPE, 1, np.uint8), RAS)
    os.utime(tmp_path / "a.nii.gz", ns=(1, 1))  # whatever the clock's grain
    assert (labelled(entry, "a", None).classes == 1).all()


def test_labels_that_an_editor_saved_with_a_scale_are_shown(tmp_path):
    write_labels(tmp_path)
    about = json.loads((tmp_path / "volumes.json").read_text())
    about["a"]["labels"] = "brats2021"
    (tmp_path / "volumes.json").write_text(json.dumps(about))
    values = np.zeros(SHAPE)
    values[2, 2, :3] = 1, 2, 4
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), RAS)
    nib.save(nib.Nifti1Image(values, RAS, image.header), tmp_path / "a.nii.gz")
    assert (nib.load(tmp_path / "a.nii.gz").get_fdata() % 1).any()  # 1.00392 for 1
    (entry,) = Shelf(tmp_path).entries()
    assert labelled(entry, "a", None).classes[2, 2, :3].tolist() == [1, 2, 3]


@pytest.fixture
def replacing(tmp_path):
    """Labels of BraTS 2023 (3: enhancing) that others (BraTS 2021, where it is 4) begin to replace."""
    write_labels(tmp_path)
    write(tmp_path / "a.nii.gz", np.full(SHAPE, 3, np.uint8), RAS)
    staged = tmp_path / ".unfinished"
    staged.mkdir()
    old = json.loads((tmp_path / "volumes.json").read_text())["a"]
    new = {**old, "labels": "brats2021", "classes_ml": {"edema": 77.0}}
    (staged / "volumes.json").write_text(json.dumps({"a": new}))
    (entry,) = Shelf(tmp_path).entries()
    return entry, staged


def test_labels_are_read_as_their_own_folder_says(replacing):
    """The staged words speak of a file that is not there yet: the old file keeps its own."""
    entry, staged = replacing
    assert (labelled(entry, "a", None).classes == 3).all()
    assert "77.00 ml" not in volume_table(entry, "a")
    write(staged / "a.nii.gz", np.full(SHAPE, 4, np.uint8), RAS)
    os.utime(staged / "volumes.json")
    assert (labelled(entry, "a", None).classes == 3).all() and entry.cases() == ["a"]
    assert "77.00 ml" in volume_table(entry, "a")


def test_staged_labels_that_are_newer_than_what_is_said_of_them_wait(replacing):
    """keelnet segment writes the file first; until then the staged words of a case are the old ones, kept."""
    entry, staged = replacing
    write(staged / "a.nii.gz", np.full(SHAPE, 4, np.uint8), RAS)
    os.utime(staged / "volumes.json", ns=(1, 1))
    assert labelled(entry, "a", None).classes.max() == 3
    assert "77.00 ml" not in volume_table(entry, "a")


@pytest.mark.parametrize("about", [{}, {"labels": None}, {"labels": "unheard"}])
def test_labels_of_no_known_convention_are_refused(tmp_path, about):
    write_labels(tmp_path)
    (tmp_path / "volumes.json").write_text(json.dumps({"a": about}))
    (entry,) = Shelf(tmp_path).entries()
    with pytest.raises(ValueError, match="unknown labels"):
        labelled(entry, "a", None)


def test_slices_that_are_not_there_are_refused(tmp_path):
    write_labels(tmp_path)
    (entry,) = Shelf(tmp_path).entries()
    with pytest.raises(ValueError, match="holds no labels of a case gone"):
        labelled(entry, "gone", None)
    case = labelled(entry, "a", None)
    with pytest.raises(ValueError, match="slice must lie between 0 and"):
        case.picture("axial", 999, "flair", 0.5)
    with pytest.raises(ValueError, match="no plane oblique"):
        case.picture("oblique", 0, "flair", 0.5)


def test_the_darkest_of_a_brain_with_values_below_0_is_told_from_its_brighter_half(tmp_path):
    """Scans whose mean over the brain is 0."""
    write_labels(tmp_path)
    (entry,) = Shelf(tmp_path).entries()
    case = labelled(entry, "a", None)
    x = np.linspace(-2, 2, 4 * case.classes.size, dtype=np.float32)
    shown = replace(case, classes=np.zeros_like(case.classes), x=x.reshape(4, *case.classes.shape))
    image = Image.open(io.BytesIO(shown.picture("axial", 1, "t1", 0.0)))
    assert len(np.unique(np.asarray(image))) > 0.5 * min(case.classes[..., 0].size, 255)
