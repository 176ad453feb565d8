"""Tumour runs: scans in, a run folder out; the same weights however often they are killed."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from scans import NEW, SHAPE, volumes, write, write_case
from torch.utils.data import DataLoader

from keelnet.data import patches
from keelnet.data.cases import find_cases
from keelnet.data.patients import patient_of
from keelnet.data.prepared import Prepared
from keelnet.data.scans import read_scans, settle
from keelnet.data.synthetic import Synthesis
from keelnet.experiments import crews, problems
from keelnet.experiments.evaluate import trained_on
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.runs import load_network, load_run, train
from keelnet.experiments.scan_sets import (
    LOADED,
    PREPARING,
    _make,
    scan_set,
    synthetic_set,
)
from keelnet.experiments.segment import segmenting_of
from keelnet.experiments.tumours import tumour_task

NAMES = ("a", "b", "ü c")
UNRENDERED = pytest.mark.usefixtures("unrendered")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KEELNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(NAMES):
        write_case(tmp_path / "scans", name, seed=seed)
    return tmp_path / "scans"


def small(folder, **changes):
    return replace(
        recipe_named("tumour"),
        folder=str(folder),
        width=(4, 8),
        depth=(1, 1),
        patch=(8,),
        patches=4,
        folds=0,
        spacing=None,
        epochs=2,
        minutes=None,
    ) if not changes else replace(small(folder), **changes)  # fmt: skip


def test_a_run_holds_scores_by_region_the_split_and_pictures(folder, tmp_path):
    heard: list[str] = []
    steps = list(train(small(folder), tmp_path / "run", report=heard.append))
    assert any("BraTS" in line for line in heard)
    assert set(steps[-1].scores) == {"mean_dice", "WT", "TC", "ET"}
    run = load_run(tmp_path / "run")
    assert set(run.scores["validation_dice"]) == {"WT", "TC", "ET"}
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert sorted(split["training"] + split["withheld"]) == sorted(NAMES)
    assert len(split["withheld"]) == 1
    assert (tmp_path / "run" / "overlay.png").read_bytes().startswith(b"\x89PNG")


@UNRENDERED
def test_a_run_says_where_its_cases_lie_and_what_its_labels_mean(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(train(small("scans", epochs=1), tmp_path / "run"))
    monkeypatch.chdir("/")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert split["folder"] == str(folder) and split["labels"] == "brats2021"
    assert list(split["files"]) == split["training"]
    for name, file in split["files"].items():
        assert file == os.path.realpath(folder / name / f"{name}_flair.nii.gz")
    assert segmenting_of(tmp_path / "run").labels == "brats2021"
    cases = find_cases([folder]).cases
    seen = trained_on(tmp_path / "run" / "split.json", cases, [folder])
    assert sorted(seen) == split["training"]


@UNRENDERED
def test_a_network_is_read_without_its_scans(folder, tmp_path):
    list(train(small(folder), tmp_path / "run"))
    for path in folder.rglob("*.nii.gz"):
        path.unlink()
    with torch.no_grad():
        assert load_network(tmp_path / "run")(torch.zeros(1, 4, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


@UNRENDERED
@pytest.mark.parametrize("changes", [{"average": 0.5}, {"products": "bfloat16"}, {"spacing": 4.0}, {"workers": 1}, {"folds": 1}])  # fmt: skip
def test_options_of_training_act(folder, tmp_path, changes, monkeypatch, alone):
    """An average on the weights that are kept, workers on who cuts the patches, all others on the objective too."""
    asked = []

    def loader(*given, num_workers, **named):
        asked.append(num_workers)
        return DataLoader(*given, num_workers=num_workers, **named)

    monkeypatch.setattr(patches, "DataLoader", loader)
    (option,) = changes
    (plain,), (step,) = (
        list(train(small(folder, patch=(4,), epochs=1, **each), tmp_path / f"run{len(each)}"))
        for each in ({}, changes)
    )
    assert np.isfinite(step.terms["loss"])
    assert (step.terms == plain.terms) == (option in ("average", "workers"))
    kept = [torch.cat([*map(torch.flatten, each.state.kept.values())]) for each in (plain, step)]
    assert torch.equal(*kept) == (option == "workers")
    assert asked == [1] * (option == "workers")


@UNRENDERED
def test_workers_cut_the_patches_that_the_caller_would(folder, tmp_path):
    one, other = (
        list(train(small(folder, workers=workers), tmp_path / f"run{workers}"))
        for workers in (0, 2)
    )
    assert [step.terms for step in one] == [step.terms for step in other]


def test_preparing_twice_prepares_once_and_a_changed_file_again(folder):
    heard: list[str] = []
    scan_set(small(folder), heard.append)
    assert any("preparing 3 cases" in line for line in heard)
    heard.clear()
    scan_set(small(folder), heard.append)
    assert not any("preparing" in line for line in heard)
    write(folder / "a" / "a_flair.nii.gz", volumes(9)[0])
    found = scan_set(small(folder), heard.append)
    assert any("preparing 1 cases" in line for line in heard)
    assert len(found.training) == 2


def test_scans_are_prepared_within_the_memory_that_is_left(folder, monkeypatch):
    """By this process alone where no other has room; the numbers are said where it has none either."""
    monkeypatch.setattr(crews.ProcessPoolExecutor, "submit", None)
    voxels = math.prod(SHAPE)
    monkeypatch.setattr(crews, "room", lambda: LOADED + PREPARING * voxels - 1)
    words = r"preparing a \(9 × 8 × 7 voxels\) takes 50.0 MB, and .* are left for it: give it 10.0 MB more"
    with pytest.raises(ValueError, match=words):
        scan_set(small(folder), lambda line: None)
    monkeypatch.setattr(crews, "room", lambda: LOADED + PREPARING * voxels)
    found = scan_set(small(folder), lambda line: None)
    assert len(found.training) + len(found.withheld) == len(NAMES)
    monkeypatch.setattr(crews, "room", lambda: 0)
    scan_set(small(folder), lambda line: None)  # they are there


@pytest.mark.parametrize("seed", range(4))
def test_no_patient_is_trained_on_and_withheld(seed, tmp_path):
    for number in range(3):
        for date in (100, 101):
            write_case(tmp_path / "scans", f"BraTS-GLI-0000{number}-{date}", NEW, (1, 2, 3), "-", seed=number)  # fmt: skip
    found = scan_set(small(tmp_path / "scans", seed=seed), lambda line: None)
    assert len(found.training) == 4 and len(found.withheld) == 2
    assert not {*map(patient_of, found.training)} & {*map(patient_of, found.withheld)}


@pytest.fixture
def alone(monkeypatch):
    """Cases are prepared by this process, which no other has room beside."""
    monkeypatch.setattr(crews, "room", lambda: LOADED + PREPARING * math.prod(SHAPE))


def test_no_patient_of_a_table_is_trained_on_and_withheld(tmp_path, alone):
    lines, whose = ["case,patient,flair,t1,t1ce,t2,seg"], {}
    for number in range(6):
        name, patient = f"scan{number}", f"p{number % 3}"
        write_case(tmp_path, name, seed=number)
        words = ("flair", "t1", "t1ce", "t2", "seg")
        cells = [name, patient, *(f"{name}/{name}_{word}.nii.gz" for word in words)]
        lines.append(",".join(cells))
        whose[name] = patient
    table = tmp_path / "scans.csv"
    table.write_text("\n".join([*lines, ""]))
    for seed in range(4):
        found = scan_set(small(table, seed=seed), lambda line: None)
        assert len(found.training) == 4 and len(found.withheld) == 2
        assert len({whose[name] for name in found.withheld}) == 1
        assert found.patients == {name: whose[name] for name in found.training}
    split = tumour_task(small(table), torch.device("cpu"), lambda line: None).about()["split.json"]
    (tmp_path / "split.json").write_text(json.dumps(split | {"files": {}}))
    seen = trained_on(tmp_path / "split.json", find_cases([table]).cases, [table])
    assert sorted(seen) == split["training"]


def test_folders_that_are_exchanged_are_prepared_anew(tmp_path, alone):
    """Of files of the same names, sizes and times."""
    for seed, name in enumerate("ab"):
        folder = write_case(tmp_path / "scans", name, seed=seed, suffix=".nii")
        for path in folder.iterdir():
            os.utime(path.rename(folder / path.name.removeprefix(f"{name}_")), (1, 1))

    def prepared():
        found = scan_set(small(tmp_path / "scans"), lambda line: None)
        return [np.array(found.prepared.volume(name).x) for name in "ab"]

    one, other = prepared()
    for old, new in ("ac", "ba", "cb"):
        (tmp_path / "scans" / old).rename(tmp_path / "scans" / new)
    np.testing.assert_array_equal(prepared(), [other, one])
    assert (one != other).any()


def test_labels_that_are_exchanged_are_prepared_anew(tmp_path, alone):
    """Those of another reader, say: files of the same names, sizes and times."""
    for seed, name in enumerate("ab"):
        folder = write_case(tmp_path / "scans", name, seed=seed, suffix=".nii")
        classes = np.zeros(SHAPE, np.uint8)
        classes[2 + seed : 5 + seed, 3:6, 4] = 1, 2, 4
        write(folder / f"{name}_seg.nii", classes)
        for path in folder.iterdir():
            os.utime(path, (1, 1))

    def prepared():
        found = scan_set(small(tmp_path / "scans"), lambda line: None)
        return [np.argwhere(found.prepared.volume(name).classes).min(0) for name in "ab"]

    one, other = prepared()
    place = tmp_path / "scans"
    for old, new in (("a/a", "c"), ("b/b", "a/a"), ("c", "b/b")):
        (place / f"{old}_seg.nii").rename(place / f"{new}_seg.nii")
    np.testing.assert_array_equal(prepared(), [other, one])
    assert (one != other).any()


def test_scans_of_one_patient_cannot_be_split(tmp_path):
    for date in (100, 101):
        write_case(tmp_path, f"BraTS-GLI-00001-{date}", NEW, (1, 2, 3), "-")
    with pytest.raises(ValueError, match="2 usable cases with labels of one patient; at least two"):
        scan_set(small(tmp_path), lambda line: None)


@UNRENDERED
@pytest.mark.parametrize("change", ["came", "went"])
def test_a_run_is_not_gone_on_with_on_other_cases(change, folder, tmp_path):
    write_case(folder, "d", seed=7)
    steps = train(small(folder, epochs=3), tmp_path / "run")
    next(steps)
    steps.close()
    split = (tmp_path / "run" / "split.json").read_text()
    if change == "came":
        write_case(folder, "e", seed=8)
    else:
        shutil.rmtree(folder / "d")
    with pytest.raises(ValueError, match=f"other cases than when the run began .[ed] {change}"):
        list(train(small(folder, epochs=3), tmp_path / "run", resume=True))
    assert (tmp_path / "run" / "split.json").read_text() == split
    if change == "came":
        shutil.rmtree(folder / "e")
    else:
        write_case(folder, "d", seed=7)
    list(train(small(folder, epochs=3), tmp_path / "run", resume=True))
    assert load_run(tmp_path / "run").scores["best_epoch"]


@UNRENDERED
def test_a_run_is_not_gone_on_with_on_other_voxels(folder, tmp_path):
    steps = train(small(folder, epochs=3), tmp_path / "run")
    next(steps)
    steps.close()
    path = folder / "b" / "b_seg.nii.gz"
    before, image = path.read_bytes(), nibabel.load(path)
    values = np.asanyarray(image.dataobj).copy()
    values[4, 3, 3] = 1  # it was 4
    write(path, values, image.affine)
    with pytest.raises(
        ValueError, match=r"labels of b in .* others than when the run began; restore"
    ):
        list(train(small(folder, epochs=3), tmp_path / "run", resume=True))
    path.write_bytes(before)  # at another time
    list(train(small(folder, epochs=3), tmp_path / "run", resume=True))
    assert load_run(tmp_path / "run").scores["best_epoch"]


def test_where_voxels_are_not_known_a_run_of_an_earlier_version_is_gone_on_with(folder, tmp_path):
    task = tumour_task(small(folder), torch.device("cpu"), lambda line: None)
    split = task.about()["split.json"]
    assert set(split["content"]) == set(NAMES) and all(split["content"].values())

    def gone_on_with(task, **changes):
        (tmp_path / "split.json").write_text(json.dumps(split | changes))
        task.require_same(tmp_path)

    gone_on_with(task)
    gone_on_with(task, content={})
    other = dict.fromkeys(NAMES, "0" * 32)
    with pytest.raises(ValueError, match=r"scans or labels of .* are others than when"):
        gone_on_with(task, content=other)
    task.withheld = [replace(each, content="") for each in task.withheld]
    gone_on_with(task, content=split["content"] | {each.name: "0" for each in task.withheld})


@UNRENDERED
def test_a_run_is_not_gone_on_with_where_labels_are_read_otherwise(folder, tmp_path):
    steps = train(small(folder, epochs=3), tmp_path / "run")
    next(steps)
    steps.close()
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    (tmp_path / "run" / "split.json").write_text(json.dumps(split | {"labels": "brats2024"}))
    with pytest.raises(ValueError, match="are read as brats2021, and were as brats2024"):
        list(train(small(folder, epochs=3), tmp_path / "run", resume=True))
    del split["labels"]  # as runs of earlier versions do not say
    (tmp_path / "run" / "split.json").write_text(json.dumps(split))
    list(train(small(folder, epochs=3), tmp_path / "run", resume=True))


def test_runs_that_read_labels_otherwise_do_not_share_what_is_prepared(tmp_path):
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "scans", name, NEW, (1, 2, 3), "-", seed=seed)
    first = scan_set(small(tmp_path / "scans"), lambda line: None)
    before = np.array(first.prepared.volume("a").classes)
    other = scan_set(small(tmp_path / "scans", labels="msd"), lambda line: None)
    np.testing.assert_array_equal(first.prepared.volume("a").classes, before)
    assert (other.prepared.volume("a").classes != before).any()
    heard: list[str] = []
    scan_set(small(tmp_path / "scans"), heard.append)
    assert not any("preparing" in line for line in heard)


def test_a_listed_case_that_is_not_there_stops_the_run(folder, tmp_path):
    lines = [
        ",".join(
            [
                name,
                *(f"{name}/{name}_{word}.nii.gz" for word in ("flair", "t1", "t1ce", "t2", "seg")),
            ]
        )
        for name in (*NAMES, "lost")
    ]
    table = folder / "scans.csv"
    table.write_text("case,flair,t1,t1ce,t2,seg\n" + "\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="lost: .*No such file.*--skip-bad"):
        scan_set(small(table), lambda line: None)
    assert "lost" in scan_set(small(table, skip_bad=True), lambda line: None).refused


def test_two_that_make_a_case_at_once_both_have_it(cache):
    """The one that is later finds the other's in its way; what a killed one of the same number left is in nobody's."""
    folder, name = cache / "made", "BraTS-GLI-00000-000"
    left = cache / f".making-0-{os.getpid()}"
    write(left / name / f"{name}-t1n.nii.gz", volumes()[0])
    for _ in range(2):
        _make(Synthesis(0, 4), folder, 0)
    assert [path.name for path in folder.iterdir()] == [name]
    assert list(cache.glob(".making*")) == [left]


def test_more_cases_than_files_may_be_open(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    write_case(tmp_path / "scans", "a")
    (scan,) = read_scans(settle(find_cases([tmp_path / "scans"])))
    prepared = Prepared(tmp_path / "prepared")
    prepared.add(scan)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        assert len(prepared.volumes(["a"] * 200)) == 200
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (300, 400))
    with pytest.raises(ValueError, match="200 cases need .* open files, and the system allows 400"):
        prepared.volumes(["a"] * 200)


def test_pictures_take_names_as_they_are(tmp_path):
    for name in ("a$_$b", "c^$", "d"):
        write_case(tmp_path / "scans", name)
    list(train(small(tmp_path / "scans", withheld=0.6, epochs=1), tmp_path / "run"))
    assert (tmp_path / "run" / "overlay.png").is_file()


def test_what_is_hardly_a_scan_is_said_when_it_is_prepared(folder):
    write(folder / "a" / "a_t2.nii.gz", np.where(volumes()[3] > 0, 5.0, 0.0).astype(np.float32))
    heard: list[str] = []
    scan_set(small(folder), heard.append)
    assert "case a: t2 is 5 wherever it is not 0, as a mask is" in heard


@UNRENDERED
def test_bad_cases_stop_the_run_or_are_left_out(folder, tmp_path):
    (folder / "b" / "b_t1.nii.gz").unlink()
    write(folder / "a" / "a_t2.nii.gz", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(ValueError, match="t1 missing.*--skip-bad"):
        list(train(small(folder), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="at least two patients are wanted"):
        list(train(small(folder, skip_bad=True), tmp_path / "run"))
    write_case(folder, "d", seed=7)
    list(train(small(folder, skip_bad=True), tmp_path / "run"))
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert set(split["refused"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (7,)}, "divisible by 2"),
        ({"patch": (8, 8)}, "one side or three"),
        ({"withheld": 0.0}, "withheld must lie"),
        ({"judged": 0}, "judged must be at least 1, got 0"),
        ({"patches": 0}, "patches must be at least 1, got 0"),
        ({"batch": -1}, "batch must be at least 1, got -1"),
        ({"lesion": 67.0}, "lesion is a share of the patches, from 0 to 1, got 67.0"),
        ({"lesion": -1.0}, "lesion is a share"),
        ({"lesion": math.nan}, "lesion is a share"),
        ({"spacing": 0.0}, "spacing must lie between 0.1 and 20 mm"),
        ({"spacing": -2.0}, "spacing must lie"),
        ({"workers": -1}, "workers must lie between 0 and 64, got -1"),
        ({"labels": "brats1999"}, "unknown labels"),
        (
            {"labels": "msd", "folder": None},
            "synthetic cases are brats2023, got 'msd': set folder to yours",
        ),
        ({"architecture": "hamiltonian"}, "needs segmenter"),
    ],
)
def test_settings_that_cannot_work_are_named(folder, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(problems, "_task", None)  # nothing is made before
    with pytest.raises(ValueError, match=message):
        list(train(replace(small(folder), **changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_of_scans_are_refused_elsewhere():
    with pytest.raises(ValueError, match="patch is a setting of recipes on scans"):
        replace(recipe_named("digits"), patch=(8,))
    with pytest.raises(ValueError, match="folds is a setting of the segmenter"):
        replace(recipe_named("digits"), folds=1)


def test_synthetic_cases_are_made_once_and_whole(cache, monkeypatch):
    recipe = replace(recipe_named("tumour"), cases=2, resolution=4)
    heard: list[str] = []
    folder = synthetic_set(recipe, heard.append)
    files = {path: path.read_bytes() for path in folder.rglob("*.nii.gz")}
    assert len(files) == 2 * 6 and not list(folder.parent.glob(".making*"))
    assert synthetic_set(recipe, heard.append) == folder and len(heard) == 1
    one = min(files)
    image = nibabel.load(one)
    assert image.header.get_zooms() == (4, 4, 4)


KILLED = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import numba, torch, torch._dynamo
from keelnet.data.patches import variation
from keelnet.experiments import pictures, problems, runs
from keelnet.experiments.recipes import Recipe
from keelnet.learning.losses import soft_dice

torch.set_num_threads(1)
variation(), soft_dice()  # MONAI, as numba and dynamo, is imported late, which each child would do anew
runs.SAVED_EVERY = 0  # most of the time is then spent on files
recipe = Recipe.from_toml(Path(sys.argv[1]).read_text())
out, kills, chance = Path(sys.argv[2]), int(sys.argv[3]), random.Random(5)

def saved():
    state = out / "state.pt"
    return state.stat().st_mtime_ns if state.is_file() else None

for number in range(kills + 1):
    begin, before = time.monotonic(), saved()
    child = os.fork()
    if child == 0:
        list(runs.train(recipe, out, resume=before is not None))
        os._exit(0)
    if number < kills:
        while time.monotonic() - begin < 30 and saved() == before:
            time.sleep(0.001)
        assert saved() != before  # it has trained before it is killed
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert number < kills or status == 0, status
    if (out / "scores.json").is_file():
        break
print(number)
"""


def test_killed_ten_times_it_ends_with_the_same_weights(folder, tmp_path):
    import tomli_w

    recipe = small(folder, epochs=100, average=0.9)
    list(train(recipe, tmp_path / "whole"))
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(recipe.as_table()))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "recipe.toml", tmp_path / "cut", "10"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 10
    weights = (tmp_path / "whole" / "weights.safetensors").read_bytes()
    assert (tmp_path / "cut" / "weights.safetensors").read_bytes() == weights
