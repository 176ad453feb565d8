"""The command line: help with examples, one line and exit code 2 for bad input, no torch before it is needed."""

import os
import subprocess
import sys
import warnings

import pytest
from scans import write_case
from typer.main import get_command

from keelnet.cli import app, main, training
from keelnet.experiments.recipes import recipe_named
from keelnet.learning.progress import Progress

COMMANDS = sorted(get_command(app).commands)
TINY = ("--set", "width=4", "--set", "depth=1", "--set", "batch=512", "--epochs", 1)


def call(*arguments, **changes):
    """The same in a process of its own, which takes seconds to load torch."""
    return subprocess.run(
        [sys.executable, "-m", "keelnet", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **changes,
    )


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",)])
def test_the_door_opens_without_torch(arguments):
    code = (
        "import sys; sys.argv = ['keelnet', *sys.argv[1:]]\n"
        "from keelnet.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "keelnet" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(said, command):
    code, out, _ = said(command, "--help")
    assert code == 0
    assert f"Example: keelnet {command}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian",), "trian"),
        (("train",), "RECIPE"),
        (("train", "tumour", "--data", ""), "an argument is empty"),
        (("train", "tumour", "--data="), "an argument is empty"),
        (("segment", "", "scans"), "an argument is empty"),
        (("train", "brains"), "unknown recipe 'brains'; known are digits, tissue"),
        (("train", "digits", "--epochs", "many"), "--epochs"),
        (("train", "digits", "--speed", "9"), "--speed"),
        (("train", "digits", "--epochs", "3", "--minutes", "1"), "not both"),
        (("train", "digits", "--epochs", "0"), "epochs must be an integer of at least 1"),
        (("train", "digits", "--minutes", "-1"), "minutes must be a finite number above 0"),
        (("train", "digits", "--set", "depth"), "key=value"),
        (("train", "digits", "--set", "deepness=3"), "unknown setting 'deepness'"),
        (("train", "digits", "--set", "depth=0"), "depth must be an integer of at least 1"),
        (("train", "digits", "--set", "activation=tan"), "unknown activation 'tan'"),
        (("train", "digits", "--set", "threads=-1"), "threads must lie between"),
        (("train", "digits", "--set", "seed=99999999999999999999"), "seed must be"),
        (("train", "digits", "--set", "decay=-1"), "decay must be at least 0"),
        (("train", "digits", "--set", "momentum=5", "--set", "method=sgd"), "momentum must be"),
        (("train", "digits", "--set", "width=16,32,64,128,256"), "needs a divisible space"),
        (("train", "digits", "--set", "device=abacus"), "device 'abacus' cannot be used here"),
        (("train", "digits", "--set", "batch=5000"), "got 5000; use batch=1438"),
        (("train", "digits", "--memory", "0"), "written like 4GB"),
        (("train", "digits", "--memory", "4XB"), "got '4XB'"),
        (("train", "digits", "--memory", "1MB"), "1.00 MB is less than the"),
        (("train", "digits", "--set", "device=meta"), "device 'meta' cannot be used here"),
        (("segment", "run", "in", "--threads", "999999"), "Invalid value for '--threads'"),
        (("plan", "brains"), "unknown recipe 'brains'; known are digits, tissue"),
        (("plan", "digits", "--memory", "lots"), "written like 4GB"),
        (("plan", "digits", "--set", "depth=0"), "depth must be an integer of at least 1"),
        (("plan", "tumour", "--set", "patch=30"), "divisible by 8, got (30, 30, 30)"),
        (("plan", "tumour", "--set", "folder=nowhere"), "/nowhere does not exist"),
        (("plan", "digits", "--set", "device=abacus"), "planned for device cpu, got 'abacus'"),
        (("train", "cifar10"), "cifar10 needs --data FOLDER"),
        (("table", "tumour"), "recipe tumour has none"),
        (("table", "peaks", "--fixed-step"), "--fixed-step needs --sweep depth"),
        (("table", "peaks", "--from", "runs"), "not both"),
        (("reproduce", "--out", "/dev/null/x"), "output folder"),
        (("reproduce", "--out", "/proc/keelnet"), "output folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, said, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, error = said(*arguments)
    assert code == 2 and out == ""
    (line,) = error.splitlines()
    assert line.startswith("keelnet: ") and words in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("trian",), "trian"), (("train", "brains"), "unknown recipe 'brains'")],
)
def test_a_process_ends_with_that_line_and_that_code(tmp_path, arguments, words):
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("keelnet: ") and words in line


def test_an_existing_folder_is_refused_and_kept(tmp_path, said):
    (tmp_path / "notes.txt").write_text("mine")
    for command in (("train", "digits"), ("reproduce",), ("demo",), ("table", "peaks")):
        code, _, error = said(*command, "--out", tmp_path)
        assert code == 2
        (line,) = error.splitlines()
        assert "choose another with --out" in line
        assert ("--overwrite" in line) == (command[0] != "table")  # which never replaces notes
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback(monkeypatch, capsys, before):
    arguments = ["train", "brains"]
    arguments.insert(0 if before else 2, "--debug")
    monkeypatch.setattr(sys, "argv", ["keelnet", *arguments])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # as it was, after this
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and "keelnet: unknown recipe" in error


def test_training_prints_progress_and_scores_and_leaves_a_run(tmp_path, said):
    words = ("train", "digits", *TINY, "--out", tmp_path / "run")
    code, out, error = said(*words)
    assert code == 0, error
    assert "epoch 1" in out and "validation accuracy: 0." in out
    assert " s, 0 s left\n" in out
    assert (tmp_path / "run" / "scores.json").is_file()
    code, _, error = said(*words, "--overwrite")
    assert code == 0, error


def test_a_log_says_what_time_is_left(capsys):
    steps = (
        Progress(epoch, epoch / 4, 10.0 * epoch, 0.1, {"loss": 1.0}, {"accuracy": 0.5}, False, None)
        for epoch in (1, 2, 4)
    )
    training._follow_in_lines(recipe_named("digits"), steps)
    lines = capsys.readouterr().out.splitlines()
    times = [line.partition("accuracy 0.5000  ")[2] for line in lines]
    assert times == ["10 s, 30 s left", "20 s, 20 s left", "40 s, 0 s left"]


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", ":smile:", "with space", "ü☃"])
def test_names_of_folders_are_printed_as_they_are(tmp_path, said, name):
    code, out, error = said("train", "digits", *TINY, "--out", tmp_path / name)
    assert code == 0, error
    assert f"written to {tmp_path / name}" in out
    assert (tmp_path / name / "scores.json").is_file()


def test_a_terminal_is_shown_numbers_of_the_letters_that_it_does_not_know(tmp_path):
    out, environment = tmp_path / "ü☃", {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = call("train", "digits", *TINY, "--out", out, env=environment)
    assert done.returncode == 0, done.stderr
    shown = str(out).encode("ascii", "backslashreplace").decode()
    assert f"written to {shown}" in done.stdout


def test_a_reader_that_leaves_does_not_stop_the_training(tmp_path):
    line = (
        f"{sys.executable} -m keelnet train digits --epochs 12 --set width=4 --set depth=1"
        f" --set batch=512 --out {tmp_path / 'run'} | head -n 1"
    )
    subprocess.run(["sh", "-c", line], check=False, capture_output=True)
    assert (tmp_path / "run" / "scores.json").is_file()


def test_a_folder_of_scans_is_made_and_looked_at(tmp_path, said):
    folder = tmp_path / "scans"
    synth = ("data", "synth", folder, "--cases", 2, "--resolution", 4, "--layout", "brats2021")
    code, out, error = said(*synth)
    assert code == 0 and "nothing clinical" in out, error
    code, out, error = said("data", "check", folder)
    assert code == 0, error
    assert "BraTS 2017-2021" in out and "2 of 2 cases can be used" in out
    assert "49×58×47 voxels of 4×4×4 mm, RAS, necrosis" in out
    broken = next(folder.glob("*/*_t1.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:1000])
    code, out, error = said("data", "check", folder)
    assert code == 2 and "1 of 2 cases can be used" in out
    assert "may be truncated" in out and error.count("\n") == 1
    assert said("data", "synth", folder)[0] == 2


def test_what_was_found_of_a_doubtful_set_is_shown_before_it_is_refused(tmp_path, said):
    for name in ("a", "b"):
        write_case(tmp_path, name, values=(1, 2, 3))  # named as up to 2021, which have no 3
    (tmp_path / "b" / "b_t1.nii.gz").unlink()
    code, out, error = said("data", "check", tmp_path)
    assert code == 2
    assert "1 case: a file for each modality" in out and "refused b: t1 missing" in out
    (line,) = error.splitlines()
    assert "the labels are 1, 2, 3" in line and "--labels" in line
