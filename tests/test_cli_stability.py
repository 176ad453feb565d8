"""keelnet stability: one subject, a table, files on demand; bad use is one sentence and exit code 2."""

import pytest

from keelnet.cli import invoke

RECIPE = ["stability", "--recipe", "swiss_roll", "--set", "depth=3", "--set", "final_time=0.5"]


def test_a_recipe_is_judged_on_the_terminal(capsys):
    assert invoke(RECIPE) == 0
    text = capsys.readouterr().out
    assert "Stability, block by block" in text and "stages.0" in text
    assert "step size" in text and "layer by layer" not in text


def test_with_out_there_are_numbers_and_pictures_and_nothing_is_overwritten(tmp_path, capsys):
    out = tmp_path / "out"
    assert invoke([*RECIPE, "--out", str(out), "--layers", "2"]) == 0
    names = sorted(each.name for each in out.iterdir())
    assert names == ["growth-stages.0.png", "spectra-stages.0.png", "stability.json"]
    assert "layer by layer" in capsys.readouterr().out
    assert invoke([*RECIPE, "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert invoke([*RECIPE, "--out", str(out), "--layers", "0", "--overwrite"]) == 0
    assert sorted(each.name for each in out.iterdir()) == names  # files of other names stay


def test_an_experiment_is_run_by_its_name(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["stability", "--experiment", "damping", "--set", "depth=5", "--set", "count=2"]
    assert invoke([*arguments, "--out", str(out)]) == 0
    assert sorted(each.name for each in out.iterdir()) == ["damping.json", "damping.png"]
    assert "damping.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "choose one"),
        (["runs/x", "--recipe", "digits"], "choose one"),
        (["nowhere"], "holds no recipe.toml"),
        (["nowhere", "--set", "depth=3"], "a run was trained as it is"),
        (["--recipe", "brains"], "unknown recipe 'brains'"),
        (["--recipe", "swiss_roll", "--set", "final_time=0"], "final_time must be"),
        (["--experiment", "speed"], "unknown experiment 'speed'"),
        (["--experiment", "growth", "--layers", "2"], "--layers is for a run or a recipe"),
        (["--experiment", "growth", "--set", "width=40"], "width must be at most 32"),
        (["--experiment", "growth", "--set", "depth=10000000000000"], "not enough memory: "),
        (["--experiment", "start", "--set", "depths=50"], "two or more that increase"),
        (["--recipe", "digits", "--set", "depth=10000000"], "depth must be at most 100000"),
    ],
)
def test_bad_use_is_one_sentence(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke(["stability", *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert words in error
