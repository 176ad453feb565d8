"""The console: what others said is printed as it is, and a lack of memory is no internal error."""

import errno
import warnings

import numpy as np
import pytest

import keelnet.cli as cli
from keelnet.cli.console import fail, note, show_warning
from keelnet.propagation import StabilityWarning

ODD = r"C:\runs\[new] and a\[/]b :smile: [bold]"


def test_messages_are_printed_as_they_are(capsys):
    assert fail(ODD, 2) == 2
    assert capsys.readouterr().err == f"keelnet: {ODD}\n"
    note(ODD)
    assert capsys.readouterr().err == f"{ODD}\n"
    show_warning(StabilityWarning(ODD), StabilityWarning, "file.py", 3)
    assert capsys.readouterr().err == f"keelnet: warning: {ODD}\n"
    with warnings.catch_warnings():
        show_warning(RuntimeWarning(ODD), RuntimeWarning, "file.py", 3)
    assert capsys.readouterr().err == ""


def out_of_memory(error):
    def command(*arguments, **how):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (MemoryError(), "not enough memory: no more was given; keelnet plan says", 2),
        (RuntimeError("alloc: can't allocate memory: 7 bytes\nframes"), "7 bytes; keelnet plan", 2),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried 7"), "you tried 7", 2),
        (RuntimeError("could not create a memory object"), "could not create a memory", 2),
        (RuntimeError("CUDA out of memory. Tried 7 GiB"), "not enough memory: CUDA out of", 2),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory: [Errno", 2),
        (RuntimeError("shapes differ"), "internal error, RuntimeError: shapes differ", 1),
    ],
)
def test_a_lack_of_memory_is_said_as_such(monkeypatch, capsys, error, words, code):
    monkeypatch.setattr(cli, "app", out_of_memory(error))
    assert cli.invoke(["train", "digits"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_numpy_says_what_it_could_not_have(monkeypatch, capsys):
    def command(*arguments, **how):
        np.empty(2**62, np.int8)

    monkeypatch.setattr(cli, "app", command)
    assert cli.invoke([]) == 2
    assert "not enough memory: Unable to allocate" in capsys.readouterr().err
