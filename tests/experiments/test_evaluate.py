"""Evaluations: known predictions have known scores; the folder is whole or not there."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest
from matplotlib.figure import Figure
from scans import NEW, RAS, SHAPE, classes, write, write_case, write_decathlon
from torch import nn

from keelnet.analysis.regions import RegionScore
from keelnet.analysis.uncertainty import Sensitivity
from keelnet.data.cases import find_cases
from keelnet.data.prepared import content_of
from keelnet.data.scans import read_scans, settle
from keelnet.experiments import evaluation_pictures, evaluation_report, overlays
from keelnet.experiments.evaluate import evaluate, trained_on
from keelnet.experiments.evaluated import Evaluated
from keelnet.experiments.evaluation_tables import cases_of, spread
from keelnet.experiments.segment import segment
from keelnet.experiments.segmenting import Segmenting
from keelnet.experiments.tiles import Tiling


class Painted(nn.Module):
    """Reads the regions that the tests paint into three modalities: 800 inside, 200 outside."""

    def __init__(self, shift=0):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        logits = 4 * x[:, :3]
        return logits.roll(self.shift, 2) if self.shift else logits


def painted_case(folder, name, drawn=None, affine=RAS):
    """A case whose FLAIR, T1 and T1ce are bright in WT, TC and ET of what is ``drawn``."""
    found = classes() if drawn is None else drawn
    write_case(folder, name, NEW, (1, 2, 3), "-", affine)
    regions = (found > 0, np.isin(found, (1, 3)), found == 3)
    for words, region in zip(("t2f", "t1n", "t1c"), regions, strict=True):
        write(folder / name / f"{name}-{words}.nii.gz", np.where(region, 800, 200).astype(np.float32), affine)  # fmt: skip
    return folder / name


def painted(shift=0):
    return Segmenting(Painted(shift), tiling=Tiling((16, 16, 16), 4, 8))


def table(folder):
    with (folder / "cases.csv").open(newline="") as file:
        return {(row["case"], row["region"]): row for row in csv.DictReader(file)}


def test_the_truth_scores_one_and_nothing_scores_none(tmp_path):
    painted_case(tmp_path / "in", "right")
    empty = np.zeros(SHAPE, np.uint8)
    empty[0, 0, 0] = 2  # normalising needs something bright
    painted_case(tmp_path / "in", "nothing", empty)
    list(evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out"))
    rows = table(tmp_path / "out")
    for region in ("WT", "TC", "ET"):
        assert float(rows["right", region]["dice"]) == 1.0
        assert float(rows["right", region]["hd95"]) == 0.0
        assert float(rows["right", region]["sensitivity"]) == 1.0
        assert float(rows["nothing", region]["sensitivity"]) == 0.0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cases"] == 2
    assert summary["regions"]["WT"]["dice"]["most"] == 1.0
    assert summary["regions"]["WT"]["dice"]["n"] == 2
    assert summary["mimics_ml"] is None


def test_a_shift_of_one_voxel_is_measured_in_millimetres(tmp_path):
    painted_case(tmp_path / "in", "a")
    list(evaluate(painted(1), "run", [tmp_path / "in"], tmp_path / "out"))
    row = table(tmp_path / "out")["a", "WT"]
    truth = classes() > 0
    moved = np.roll(truth, 1, 0)
    assert float(row["dice"]) == pytest.approx(2 * (truth & moved).sum() / (2 * truth.sum()), abs=1e-4)  # fmt: skip
    assert float(row["hd95"]) == pytest.approx(2.0)
    assert float(row["predicted_ml"]) == pytest.approx(truth.sum() * 8 / 1000)


def test_the_page_fetches_nothing_and_names_every_case(tmp_path):
    for name in ("a", "b", "c", "d"):
        painted_case(tmp_path / "in", name)
    list(evaluate(painted(), "my run", [tmp_path / "in"], tmp_path / "out", maps=True))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "http" not in page and 'src="data:image/png' in page
    assert all(f"<td>{name}</td>" in page for name in "abcd")
    assert page.count("<h3>") == 3 and 'alt=""' not in page
    image = nibabel.load(tmp_path / "out" / "cases" / "a-entropy.nii.gz")
    values = np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.float32 and values.shape == SHAPE
    assert values.min() >= 0 and values.max() <= 1


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take longer than all else; of a case they are its labels."""
    monkeypatch.setattr(evaluation_pictures, "case_picture", lambda scan, found, doubt: bytes(found))  # fmt: skip
    monkeypatch.setattr(overlays, "planes_picture", lambda scan, found: bytes(found))
    monkeypatch.setattr(evaluation_report, "evaluation_report", lambda *given: "")


def test_pictures_and_maps_of_an_earlier_evaluation_go(tmp_path, undrawn):
    for name in ("a", "b"):
        painted_case(tmp_path / "in", name)
    out = tmp_path / "out"
    list(evaluate(painted(), "run", [tmp_path / "in"], out, maps=True))
    (out / "cases" / "mine.png").write_bytes(b"mine")
    old = {path.name: path.read_bytes() for path in (out / "cases").iterdir()}
    shutil.rmtree(tmp_path / "in" / "b")
    failing = evaluate(painted(1), "run", [tmp_path / "in"], out, overwrite=True)
    next(failing)
    failing.close()
    assert {path.name: path.read_bytes() for path in (out / "cases").iterdir()} == old
    list(evaluate(painted(1), "run", [tmp_path / "in"], out, overwrite=True))
    assert {path.name for path in (out / "cases").iterdir()} == {"a.png", "mine.png"}
    assert (out / "cases" / "a.png").read_bytes() != old["a.png"]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, before they become bytes."""
    drawn: list[Figure] = []

    def keep(figure, dpi=150):
        drawn.append(figure)
        return b"png"

    monkeypatch.setattr(evaluation_pictures, "png", keep)
    monkeypatch.setattr(evaluation_report, "evaluation_report", lambda *given: "")
    return drawn


@pytest.mark.parametrize("left", [False, True])
def test_a_case_is_shown_as_it_lies_and_truth_and_prediction_under_their_names(
    tmp_path, figures, left
):
    """Right is right and up is the front, in whatever direction the file's axes grow; x and y in mm."""
    affine = np.diag([-2.0, -3.0, 4.0, 1.0] if left else [2.0, 3.0, 4.0, 1.0])
    painted_case(tmp_path / "in", "a", affine=affine)
    list(evaluate(painted(1), "run", [tmp_path / "in"], tmp_path / "out", maps=True))
    file = np.asarray(nibabel.load(tmp_path / "out" / "cases" / "a-entropy.nii.gz").dataobj)
    truth, doubt = (each[::-1, ::-1] if left else each for each in (classes(), file))
    level = 2  # the first of those with most core
    found = np.roll(truth, 1, 0)  # one voxel to the right
    flair, enhanced = (np.where(each, 800, 200) for each in (truth > 0, truth == 3))
    panels = {
        "FLAIR": [flair],
        "T1ce": [enhanced],
        "truth": [flair, truth],
        "prediction": [flair, found],
        "entropy, bits": [doubt],
    }
    ((*line, _bar),) = (figure.axes for figure in figures)
    assert [axes.get_title() for axes in line] == [*panels]
    for axes, wanted in zip(line, panels.values(), strict=True):
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 2 * SHAPE[0]), (0, 3 * SHAPE[1]))
        for image, values in zip(axes.images, wanted, strict=True):
            assert image.origin == "lower"
            shown = np.ma.filled(image.get_array(), 0)
            np.testing.assert_array_equal(shown, values[:, :, level].T)


def test_true_volumes_lie_along_x_and_predicted_ones_along_y(figures):
    def scored(dice, predicted, true):
        return RegionScore(dice, 1.0, 0.5, 0.5, dice, 1.0, predicted, true)

    done = []
    for case in range(3):
        numbers = {"WT": 10 + case, "TC": 20 + case, "ET": 30 + case}
        regions = {
            name: scored(each / 100, float(each), each + 50.0) for name, each in numbers.items()
        }
        done.append(Evaluated(str(case), regions, 0.1, Sensitivity(1.0, 1, True, None, 1), None))
    for draw in (evaluation_pictures.volume_picture, evaluation_pictures.dice_picture):
        draw(done)
    (volumes,), (dice,) = (figure.axes for figure in figures)
    assert (volumes.get_xlabel(), volumes.get_ylabel()) == (
        "true volume, ml",
        "predicted volume, ml",
    )
    lines = {line.get_label(): line for line in volumes.lines}
    dots = [line for line in dice.lines if line.get_marker() in ("o", "s", "D")]
    names = ("whole tumour", "core", "enhancing")
    assert tuple(each.get_text() for each in dice.get_xticklabels()) == names
    for place, (name, own) in enumerate(zip(("WT", "TC", "ET"), dots, strict=True)):
        scores = [each.regions[name] for each in done]
        assert lines[name].get_xdata().tolist() == [each.true_ml for each in scores]
        assert lines[name].get_ydata().tolist() == [each.predicted_ml for each in scores]
        assert own.get_ydata().tolist() == [each.dice for each in scores]
        assert np.abs(own.get_xdata() - place).max() < 0.25


@pytest.mark.parametrize("table", ["case,flair,t1,t1ce,t2\na,1,2,3,4\n", "case,region,dice\n../mine,WT,1\n", "\0", ""])  # fmt: skip
def test_a_table_that_is_none_of_ours_takes_nothing_away(tmp_path, table):
    (tmp_path / "cases.csv").write_text(table)
    assert cases_of(tmp_path / "cases.csv") == []
    assert cases_of(tmp_path / "none.csv") == []


def test_volumes_are_those_of_segment_also_on_sheared_grids(tmp_path, undrawn):
    affine = RAS.copy()
    affine[1, 2] = 2 * np.tan(
        np.deg2rad(20)
    )  # slices slanted, as by a gantry or an affine registration
    painted_case(tmp_path / "in", "a", affine=affine)
    (scored,) = evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "scored")
    (done,) = segment(painted(), [tmp_path / "in"], tmp_path / "out")
    for name, region in scored.regions.items():
        assert region.predicted_ml == pytest.approx(done.regions_ml[name], rel=1e-5)
    assert scored.regions["WT"].true_ml == pytest.approx((classes() > 0).sum() * 8 / 1000)


def test_tumour_found_on_lookalikes_is_counted(tmp_path):
    case = painted_case(tmp_path / "in", "a")
    mimics = np.zeros(SHAPE, np.uint8)
    mimics[3:8, 2:5, 1] = 2  # 9 of 15 where tumour is found, and turned round another number
    write(case / "a-mimics.nii.gz", mimics)
    heard: list[str] = []
    (painted_case(tmp_path / "in", "b") / "b-seg.nii.gz").unlink()
    (done,) = evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out", report=heard.append)
    assert "1 cases without labels are left out" in heard
    assert done.mimics_ml == pytest.approx(9 * 8 / 1000)


def test_labels_and_look_alikes_in_another_order_of_axes_lie_where_they_did(tmp_path, undrawn):
    case = painted_case(tmp_path / "in", "a")
    mimics = np.zeros(SHAPE, np.uint8)
    mimics[3:8, 2:5, 1] = 2  # 9 of 15 where tumour is found, and turned round another number
    write(case / "a-mimics.nii.gz", mimics)
    for word in ("seg", "mimics", "t1c"):
        path = case / f"a-{word}.nii.gz"
        turn = np.array([[2, -1], [0, 1], [1, -1]])
        nibabel.save(nibabel.load(path).as_reoriented(turn), path)
    (done,) = evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out")
    assert {score.dice for score in done.regions.values()} == {1.0}
    assert done.mimics_ml == pytest.approx(9 * 8 / 1000)


def test_bad_cases_and_folders_are_named(tmp_path):
    painted_case(tmp_path / "in", "a")
    bad = painted_case(tmp_path / "in", "b")
    write(bad / "b-t2w.nii.gz", np.full(SHAPE, np.inf, np.float32))
    with pytest.raises(ValueError, match="case b: t2 holds .* NaN or infinite"):
        list(evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    list(evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out", skip_bad=True))
    assert "b" in json.loads((tmp_path / "out" / "summary.json").read_text())["refused"]
    with pytest.raises(ValueError, match="--overwrite"):
        list(evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out", skip_bad=True))
    for path in (tmp_path / "in").rglob("*seg.nii.gz"):
        path.unlink()
    with pytest.raises(ValueError, match="no case has labels"):
        list(evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "other"))


def test_headers_are_checked_before_anything_is_scored(tmp_path):
    painted_case(tmp_path / "in", "a")
    late = painted_case(tmp_path / "in", "z")
    write(late / "z-t2w.nii.gz", np.ones((4, 4, 4), np.float32))
    scored = []
    with pytest.raises(ValueError, match="case z: .*register them"):
        for done in evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out"):
            scored.append(done)
    assert not scored


@pytest.mark.parametrize("table", [False, True])
def test_cases_that_were_trained_on_are_told(table, tmp_path):
    words = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}
    rows = [["case", *words]]
    for name in ("a", "b", "c"):
        painted_case(tmp_path / "in", name)
        rows.append([name, *(f"{name}/{name}-{word}.nii.gz" for word in words.values())])
    listed = tmp_path / "in" / "list.csv"
    listed.write_text("".join(",".join(row) + "\n" for row in rows))
    known = listed if table else tmp_path / "in"
    split = tmp_path / "split.json"
    about = {"folder": str(known), "training": ["a", "b"], "withheld": ["c"], "refused": {}}
    split.write_text(json.dumps(about))
    heard: list[str] = []
    done = list(
        evaluate(
            painted(),
            "run",
            [known],
            tmp_path / "out",
            "brats2023",
            report=heard.append,
            split=split,
        )
    )
    assert [each.name for each in done if each.trained_on] == ["a", "b"]
    assert any("2 of 3 cases were trained on" in line for line in heard)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["trained_on"] == 2
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        assert {row["case"] for row in csv.DictReader(file) if row["trained_on"] == "1"} == {
            "a",
            "b",
        }
    assert "2 of these 3 cases were trained on" in (tmp_path / "out" / "report.html").read_text()
    about["folder"] = str(tmp_path / "elsewhere")  # others of the same names
    split.write_text(json.dumps(about))
    other = evaluate(painted(), "run", [known], tmp_path / "new", "brats2023", split=split)
    assert not any(each.trained_on for each in other)


SEEN = {  # trained on, evaluated on: which cases are marked
    "the folder that was listed": ("table", "in", ["BraTS-GLI-00005-100"]),
    "another list of the files": ("table", "other", ["row"]),
    "a link to the folder": ("in", "link", ["BraTS-GLI-00005-100", "BraTS-GLI-00005-101"]),
    "the patient at another date": ("in", "in", ["BraTS-GLI-00005-100", "BraTS-GLI-00005-101"]),
    "a copy of the folder, by names alone": ("in", "copy", []),
}


@pytest.mark.parametrize("which", SEEN)
def test_a_case_is_known_by_its_files_and_its_patient(which, tmp_path):
    trained, evaluated, marked = SEEN[which]
    names = ("BraTS-GLI-00005-100", "BraTS-GLI-00005-101", "BraTS-GLI-00006-100")
    for name in names:
        painted_case(tmp_path / "in", name)
        painted_case(tmp_path / "copy", name)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    words = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}
    first = [f"in/{names[0]}/{names[0]}-{word}.nii.gz" for word in words.values()]
    for table, case in (("table", names[0]), ("other", "row")):
        lines = [["case", *words], [case, *first]]
        (tmp_path / f"{table}.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    split = tmp_path / "split.json"
    about = {
        "folder": str(tmp_path / (trained if trained == "in" else f"{trained}.csv")),
        "training": [names[0]],
        "withheld": [names[2]],
        "refused": {},
        "files": {names[0]: str((tmp_path / first[0]).resolve())},
    }
    split.write_text(json.dumps(about))
    source = tmp_path / (f"{evaluated}.csv" if evaluated == "other" else evaluated)
    cases = find_cases([source]).cases
    assert sorted(trained_on(split, cases, [source])) == marked


@pytest.mark.parametrize("told", [True, False])
def test_patients_that_a_table_told_of_are_known_again(told, tmp_path):
    """Runs of earlier versions know the names of their cases alone."""
    words = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}
    lines = [["case", "patient", *words]]
    for name, patient in (("a", "p"), ("b", "p"), ("p", "q")):
        painted_case(tmp_path, name)
        lines.append([name, patient, *(f"{name}/{name}-{word}.nii.gz" for word in words.values())])
    table = tmp_path / "scans.csv"
    table.write_text("".join(",".join(line) + "\n" for line in lines))
    about = {"folder": str(table), "training": ["a"], "withheld": ["p"], "refused": {}}
    about |= {"patients": {"a": "p"}} if told else {}
    split = tmp_path / "split.json"
    split.write_text(json.dumps(about))
    seen = trained_on(split, find_cases([table]).cases, [table])
    assert seen == ({"a", "b"} if told else {"a"})


def test_a_patient_whom_a_table_calls_otherwise_is_known_by_the_names_of_scans(tmp_path):
    """The run was of a folder, whose names tell; a table lists the next scan of the same patient."""
    name = "BraTS-GLI-00005-101"
    painted_case(tmp_path, name)
    words = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}
    files = [f"{name}/{name}-{word}.nii.gz" for word in words.values()]
    table = tmp_path / "scans.csv"
    lines = [["case", "patient", *words], [name, "P7", *files]]
    table.write_text("".join(",".join(line) + "\n" for line in lines))
    patients = {"BraTS-GLI-00005-100": "BraTS-GLI-00005"}
    split = tmp_path / "split.json"
    about = {"folder": str(tmp_path), "training": [*patients], "patients": patients}
    split.write_text(json.dumps(about))
    assert trained_on(split, find_cases([table]).cases, [table]) == {name}


@pytest.mark.parametrize("about", [{}, {"labels": "brats2023"}])
def test_a_split_that_says_nothing_of_training_marks_no_case_and_it_is_said(about, tmp_path):
    painted_case(tmp_path / "in", "a")
    split = tmp_path / "split.json"
    split.write_text(json.dumps(about))
    heard: list[str] = []
    cases = find_cases([tmp_path / "in"]).cases
    assert trained_on(split, cases, [tmp_path / "in"], heard.append) == set()
    assert heard == [f"{split} does not say which cases were trained on, so none is marked as such"]


def test_a_network_that_gives_no_number_has_no_score(tmp_path):
    class Nothing(Painted):
        def forward(self, x):
            return x[:, :3] / 0

    painted_case(tmp_path / "in", "a")
    with pytest.raises(ValueError, match="case a: the network gives NaN or infinity"):
        segmenting = Segmenting(Nothing(), tiling=Tiling((16, 16, 16), 4, 8))
        list(evaluate(segmenting, "run", [tmp_path / "in"], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_table_of_cases_is_not_replaced_by_that_of_scores(tmp_path):
    painted_case(tmp_path, "a")
    words = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}
    lines = [["case", *words], ["c", *(f"a/a-{word}.nii.gz" for word in words.values())]]
    (tmp_path / "cases.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    before = (tmp_path / "cases.csv").read_bytes()
    with pytest.raises(ValueError, match="cases.csv is an input"):
        list(evaluate(painted(), "run", [tmp_path / "cases.csv"], tmp_path, "brats2023", overwrite=True))  # fmt: skip
    assert (tmp_path / "cases.csv").read_bytes() == before


def test_the_decathlons_labels_are_read_as_its_own(tmp_path):
    write_decathlon(tmp_path / "in", "a")
    (done,) = evaluate(painted(), "run", [tmp_path / "in"], tmp_path / "out")
    assert done.regions["ET"].true_ml == pytest.approx((classes() == 3).sum() * 8 / 1000)


def test_a_spread_leaves_out_what_is_undefined():
    found = spread([1.0, float("nan"), 3.0])
    assert (found["n"], found["undefined"], found["mean"], found["median"]) == (2, 1, 2.0, 2.0)
    assert spread([float("nan")])["mean"] is None


@pytest.mark.parametrize("how", ["copied", "packed otherwise", "turned", "by another name"])
def test_a_copy_of_a_case_that_was_trained_on_is_known_by_what_it_holds(how, tmp_path, undrawn):
    """A case whose content an earlier version did not say is not known; nor is one that was withheld."""
    names = ("seen", "unsaid", "withheld")
    for cut, name in enumerate(names):
        drawn = classes()
        drawn[:, :, : 1 + cut] = 0
        painted_case(tmp_path / "in", name, drawn)
    contents = {each.name: content_of(each) for each in read_scans(settle(find_cases([tmp_path / "in"])))}  # fmt: skip
    about = {
        "folder": str(tmp_path / "in"),
        "training": ["seen", "unsaid"],
        "withheld": ["withheld"],
        "files": {name: str(tmp_path / "in" / name / f"{name}-t2f.nii.gz") for name in names[:2]},
        "content": contents | {"unsaid": ""},
    }
    split = tmp_path / "split.json"
    split.write_text(json.dumps(about))
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    for path in (tmp_path / "copy" / "seen").iterdir():
        image = nibabel.load(path)
        if how == "packed otherwise":
            nibabel.save(image, path.with_suffix(""))
            path.unlink()
        elif how == "turned":
            nibabel.save(image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])), path)
        elif how == "by another name":
            path.rename(path.with_name(path.name.replace("seen", "other")))
    if how == "by another name":
        (tmp_path / "copy" / "seen").rename(tmp_path / "copy" / "other")
    heard: list[str] = []
    out = tmp_path / "out"
    done = evaluate(painted(), "run", [tmp_path / "copy"], out, report=heard.append, split=split)
    wanted = "other" if how == "by another name" else "seen"
    assert [each.name for each in done if each.trained_on] == [wanted]
    assert [line for line in heard if "trained on" in line] == [
        "1 cases are copies of some that were trained on: their scores say nothing of new ones"
    ]
    assert json.loads((out / "summary.json").read_text())["trained_on"] == 1
    assert {case for (case, _), row in table(out).items() if row["trained_on"] == "1"} == {wanted}
