"""Commands that use a trained network: what they hand on, without the network and with one."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest

from keelnet.cli import invoke
from keelnet.experiments import crews, evaluate, segment
from keelnet.experiments.segment import Segmented


@pytest.mark.parametrize("given", [".", "../liver", "{run}", "{run}/"])
def test_a_run_is_named_by_its_folder(tmp_path, monkeypatch, given):
    run = tmp_path / "liver"
    run.mkdir()
    monkeypatch.chdir(run)
    names = []

    def scored(segmenting, name, *given):
        names.append(name)
        raise ValueError("enough")
        yield

    monkeypatch.setattr(segment, "segmenting_of", lambda *given, **named: None)
    monkeypatch.setattr(evaluate, "evaluate", scored)
    assert invoke(["evaluate", given.format(run=run), str(tmp_path)]) == 2
    assert names == ["liver"]


def test_volumes_of_small_animals_are_printed(tmp_path, monkeypatch, capsys):
    volumes = {"WT": 1.25e-4, "TC": 0.0, "ET": 12.34}
    done = Segmented("mouse", "mouse.nii.gz", "brats2023", {}, volumes)
    monkeypatch.setattr(segment, "segmenting_of", lambda *given, **named: None)
    monkeypatch.setattr(segment, "segment", lambda *given: iter([done]))
    assert invoke(["segment", str(tmp_path), str(tmp_path)]) == 0
    assert "WT 0.000125 ml, TC 0.0 ml, ET 12.3 ml" in capsys.readouterr().out


TINY = ("cases=2", "resolution=4", "spacing=4", "width=4,8", "depth=1,1", "patch=8", "patches=2")
SETTINGS = [word for setting in TINY for word in ("--set", setting)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run of `train tumour` and, beside it, the two cases that it has made for itself: good, and cut off in bad."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KEELNET_CACHE", str(root / "cache"))
        for room in ("pictures", "planes", "overlays", "evaluation_pictures"):
            patched.setattr(f"keelnet.experiments.{room}.png", lambda figure, dpi=150: b"")
        # Processes of their own would import all libraries for less than a second of work.
        patched.setattr(crews, "ProcessPoolExecutor", lambda *given: ThreadPoolExecutor(1))
        patched.setattr(evaluate, "PATCH", 8)
        assert (
            invoke(["train", "tumour", *SETTINGS, "--epochs", "1", "--out", str(root / "run")]) == 0
        )
        (made,) = (root / "cache" / "synthetic").glob("*/2-cases")
        for kind in ("good", "bad"):
            shutil.copytree(made, root / kind)
        first = min((root / "bad").rglob("*-t2f.nii.gz"))
        first.write_bytes(first.read_bytes()[:-1000])
        yield root


CASES = [f"BraTS-GLI-0000{number}-000" for number in range(2)]


def labels_in(folder):
    return np.asarray(nibabel.load(folder / f"{CASES[0]}.nii.gz").dataobj)


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def plain(world):
    """Labels without any option, the case as it was made."""
    assert invoke(["segment", str(world / "run"), str(world / "good" / CASES[0]), "--out", str(world / "plain")]) == 0  # fmt: skip
    found = labels_in(world / "plain")
    assert set(np.unique(found)) == {0, 1, 2, 3}
    return found


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--smallest", 1e6), lambda plain: 0 * plain),
        (("--empty-et", 1e6), lambda plain: np.where(plain == 3, 1, plain)),
        (("--labels", "brats2021"), lambda plain: np.where(plain == 3, 4, plain)),
        (("--mirrored",), None),
    ],
    ids=["--smallest", "--empty-et", "--labels", "--mirrored"],
)
def test_each_option_of_segment_does_what_it_says(world, plain, said, tmp_path, option, expected):
    code, _, error = said("segment", world / "run", world / "good" / CASES[0], "--out", tmp_path / "out", *option)  # fmt: skip
    assert code == 0, error
    found = labels_in(tmp_path / "out")
    if expected is None:
        assert (found != plain).any()
    else:
        np.testing.assert_array_equal(found, expected(plain))


def test_a_cut_off_file_stops_every_command_and_nothing_is_written(world, said, tmp_path):
    bad, before = world / "bad", content(world / "bad")
    commands = (
        ("train", "tumour", *SETTINGS[2:], "--epochs", 1, "--data", bad),
        ("segment", world / "run", bad),
        ("evaluate", world / "run", bad),
    )
    for words in commands:
        code, _, error = said(*words, "--out", tmp_path / "out")
        assert code == 2
        (line,) = error.splitlines()
        assert line.startswith("keelnet: ") and CASES[0] in line and "--skip-bad" in line
        assert not list(tmp_path.iterdir()), words
    assert content(bad) == before


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_bad_cases_are_left_out_and_old_results_replaced_where_it_is_asked_for(world, said, tmp_path, command):  # fmt: skip
    out = tmp_path / "out"
    words = (command, world / "run", world / "bad", "--out", out)
    code, shown, error = said(*words, "--skip-bad")
    assert code == 0, error
    if command == "segment":
        assert f"1 case written to {out}, 1 left out ({CASES[0]}); for research only" in shown
        assert sorted(path.name for path in out.glob("*.nii.gz")) == [f"{CASES[1]}.nii.gz"]
    before = content(out)
    for option, asked in (("--skip-bad", "--overwrite"), ("--overwrite", "--skip-bad")):
        code, _, error = said(*words, option)
        assert code == 2 and asked in error
        assert content(out) == before
    code, _, error = said(*words, "--skip-bad", "--overwrite")
    assert code == 0, error


def test_a_network_is_scored_with_maps_where_they_are_asked_for(world, said, tmp_path):
    words = ("evaluate", world / "run", world / "good" / CASES[0], "--out", tmp_path / "out")
    code, shown, error = said(*words)
    assert code == 0, error
    assert "mean Dice 0." in shown and "over 1 cases" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cases", "cases.csv", "report.html", "summary.json"}  # fmt: skip
    assert not [*(tmp_path / "out").rglob("*.nii.gz")]
    code, _, error = said(*words, "--overwrite", "--entropy")
    assert code == 0, error
    doubt = nibabel.load(tmp_path / "out" / "cases" / f"{CASES[0]}-entropy.nii.gz").get_fdata()
    assert 0 <= doubt.min() < doubt.max() <= 1 + 1e-6
