"""The command line: help with examples, one line and exit code 2 for bad input, no torch before it is needed."""

import os
import subprocess
import sys

import pytest
from typer.main import get_command

from keelnet.cli import app

COMMANDS = sorted(get_command(app).commands)


def call(*arguments, **changes):
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
def test_help_shows_an_example(command):
    done = call(command, "--help")
    assert done.returncode == 0
    assert f"Example: keelnet {command}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian",), "trian"),
        (("train",), "RECIPE"),
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
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, words):
    out = () if "--out" in arguments or arguments[0] != "train" else ("--out", tmp_path / "run")
    done = call(*arguments, *out)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("keelnet: ") and words in line
    assert not (tmp_path / "run").exists()


def test_an_existing_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for command in (("train", "digits"), ("reproduce",), ("demo",), ("table", "peaks")):
        done = call(*command, "--out", tmp_path)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert "choose another with --out" in line
        assert ("--overwrite" in line) == (command[0] != "table")  # which never replaces notes
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback(before):
    arguments = ["train", "brains"]
    arguments.insert(0 if before else 2, "--debug")
    done = call(*arguments)
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "keelnet: unknown recipe" in done.stderr


def test_training_prints_progress_and_scores_and_leaves_a_run(tmp_path):
    settings = ("width=8", "depth=2", "batch=256")
    changes = [word for setting in settings for word in ("--set", setting)]
    done = call("train", "digits", "--epochs", 1, *changes, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "epoch 1" in done.stdout and "validation accuracy: 0." in done.stdout
    assert (tmp_path / "run" / "scores.json").is_file()
    again = call(
        "train", "digits", "--epochs", 1, *changes, "--out", tmp_path / "run", "--overwrite"
    )
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", ":smile:", "with space", "ü☃"])
def test_names_of_folders_are_printed_as_they_are(tmp_path, name):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    settings = ("--set", "width=4", "--set", "depth=1", "--set", "batch=512", "--epochs", 1)
    done = call("train", "digits", *settings, "--out", tmp_path / name, env=environment)
    assert done.returncode == 0, done.stderr
    shown = str(tmp_path / name).encode("ascii", "backslashreplace").decode()
    assert f"written to {shown}" in done.stdout
    assert (tmp_path / name / "scores.json").is_file()


def test_a_reader_that_leaves_does_not_stop_the_training(tmp_path):
    line = (
        f"{sys.executable} -m keelnet train digits --epochs 12 --set width=4 --set depth=1"
        f" --set batch=512 --out {tmp_path / 'run'} | head -n 1"
    )
    subprocess.run(["sh", "-c", line], check=False, capture_output=True)
    assert (tmp_path / "run" / "scores.json").is_file()


def test_a_folder_of_scans_is_made_and_looked_at(tmp_path):
    out = tmp_path / "scans"
    made = call("data", "synth", out, "--cases", 2, "--resolution", 4, "--layout", "brats2021")
    assert made.returncode == 0 and "nothing clinical" in made.stdout, made.stderr
    seen = call("data", "check", out)
    assert seen.returncode == 0, seen.stderr
    assert "BraTS 2017-2021" in seen.stdout and "2 of 2 cases can be used" in seen.stdout
    assert "49×58×47 voxels of 4×4×4 mm, RAS, necrosis" in seen.stdout
    broken = next(out.glob("*/*_t1.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:1000])
    seen = call("data", "check", out)
    assert seen.returncode == 2 and "1 of 2 cases can be used" in seen.stdout
    assert "may be truncated" in seen.stdout and seen.stderr.count("\n") == 1
    assert call("data", "synth", out).returncode == 2
