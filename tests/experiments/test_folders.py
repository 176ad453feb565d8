"""Output folders: nothing is overwritten unasked, nothing old is lost before the new is whole."""

import contextlib
import errno
import itertools
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from keelnet.experiments.folders import MARK, STAGING, OutputFolder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(item.relative_to(folder)): item.read_text()
        for item in folder.rglob("*")
        if item.is_file()
    }


@pytest.mark.parametrize("deep", ["run", "a/b/run"])
def test_a_new_folder_holds_what_was_written(tmp_path, deep):
    with OutputFolder.claim(tmp_path / deep, overwrite=False) as folder:
        folder.write_text("one.txt", "1")
        folder.write_bytes("sub/two.txt", b"2")
        assert contents(tmp_path / deep)["one.txt"] == "1"
    assert contents(tmp_path / deep) == {"one.txt": "1", "sub/two.txt": "2"}


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(ValueError, match="exists and is not empty; .*--overwrite"):
        OutputFolder.claim(tmp_path, overwrite=False)
    assert contents(tmp_path) == {"old.txt": "old"}


def test_overwriting_replaces_own_files_at_the_end_and_keeps_the_others(tmp_path):
    (tmp_path / "result.txt").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    with OutputFolder.claim(tmp_path, overwrite=True) as folder:
        folder.write_text("result.txt", "new")
        folder.write_text("deep/er.txt", "new")
        assert (tmp_path / "result.txt").read_text() == "old"
    assert contents(tmp_path) == {"result.txt": "new", "deep/er.txt": "new", "notes.txt": "mine"}
    assert not (tmp_path / STAGING).exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_cannot_write_to_one_folder_at_once(tmp_path, overwrite):
    """Not even where the first has written nothing yet."""
    tmp_path = tmp_path / "run"
    tmp_path.mkdir()
    with OutputFolder.claim(tmp_path, overwrite=False) as first:
        other = OutputFolder.claim(tmp_path, overwrite)
        with pytest.raises(ValueError, match="another run is writing there"), other:
            pass
        first.write_text("one.txt", "1")
    assert contents(tmp_path) == {"one.txt": "1"}
    with OutputFolder.claim(tmp_path, overwrite=True) as later:
        later.write_text("one.txt", "2")
    assert contents(tmp_path) == {"one.txt": "2"}


def test_what_was_reopened_is_not_lost_by_a_failure(tmp_path):
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / "state.pt").write_text("hours")
    with pytest.raises(RuntimeError), OutputFolder.reopen(tmp_path, "state.pt"):
        raise RuntimeError
    assert contents(tmp_path) == {f"{STAGING}/state.pt": "hours"}


def test_what_has_ended_meanwhile_is_not_reopened(tmp_path):
    (tmp_path / "state.pt").write_text("hours")
    found = OutputFolder.reopen(tmp_path, "state.pt")
    (tmp_path / "state.pt").unlink()
    with pytest.raises(ValueError, match="it has ended"), found:
        pass
    with OutputFolder.claim(tmp_path, overwrite=True):
        pass


def test_what_was_reopened_and_has_nothing_to_go_on_from_goes(tmp_path):
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / "mark").write_text("x")
    with pytest.raises(RuntimeError), OutputFolder.reopen(tmp_path, "mark") as folder:
        folder.remove("mark")
        raise RuntimeError
    assert not (tmp_path / STAGING).exists()


def test_a_lack_of_memory_is_not_the_folders(tmp_path):
    with pytest.raises(OSError, match="memory"), OutputFolder.claim(tmp_path, overwrite=False):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_while_overwriting_leaves_the_old_result(tmp_path, error):
    (tmp_path / "result.txt").write_text("old")
    with pytest.raises(error), OutputFolder.claim(tmp_path, overwrite=True) as folder:
        folder.write_text("result.txt", "new")
        raise error
    assert contents(tmp_path) == {"result.txt": "old"}


def test_a_failure_in_a_new_folder_keeps_what_was_finished(tmp_path):
    with pytest.raises(RuntimeError), OutputFolder.claim(tmp_path / "run", False) as folder:
        folder.write_text("weights.txt", "best so far")
        raise RuntimeError
    assert contents(tmp_path / "run") == {"weights.txt": "best so far"}


def test_a_whole_result_appears_at_once_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), OutputFolder.claim(tmp_path / "run", False, True) as folder:
        folder.write_text("half.txt", "half")
        raise RuntimeError
    assert contents(tmp_path) == {}
    with OutputFolder.claim(tmp_path / "run", False, whole=True) as folder:
        folder.write_text("all.txt", "all")
        assert "all.txt" not in contents(tmp_path / "run")
    assert contents(tmp_path / "run") == {"all.txt": "all"}


def test_a_file_that_cannot_be_finished_leaves_no_trace(tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(ValueError, match="No space left on device; choose"),
        OutputFolder.claim(tmp_path, overwrite=False) as folder,
    ):
        folder.write_text("kept.txt", "kept")
        monkeypatch.setattr("os.replace", full)
        folder.write_text("kept.txt", "lost")
    assert contents(tmp_path) == {"kept.txt": "kept"}


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_file_in_the_way_is_one_sentence(tmp_path, inside):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="output folder .*taken"):
        OutputFolder.claim(tmp_path / "taken" / inside, overwrite=True)


@pytest.mark.parametrize("inside", ["", "new"])
def test_a_folder_without_write_permission_is_refused_even_to_root(tmp_path, inside):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match="read-only"):
            OutputFolder.claim(tmp_path / inside, overwrite=False)
    finally:
        tmp_path.chmod(0o700)


def test_a_disk_that_takes_no_folder_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    folder = OutputFolder.claim(tmp_path / "new", overwrite=False)
    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(ValueError, match="Read-only file system; choose"), folder:
        pass


@pytest.mark.parametrize("old", [False, True])
def test_two_runs_cannot_write_to_one_folder(tmp_path, old):
    if old:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "old.txt").write_text("old")
    first, second = (OutputFolder.claim(tmp_path / "run", overwrite=old) for _ in range(2))
    with first:
        first.write_text("result.txt", "first")
        with pytest.raises(ValueError, match="another run is writing there"), second:
            second.write_text("result.txt", "second")
    assert contents(tmp_path / "run")["result.txt"] == "first"


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_what_was_written_since_the_claim_is_not_overwritten(tmp_path, whole, there):
    """Minutes of preparing data may lie between the claim and the work."""
    out = tmp_path / "run"
    if there:
        out.mkdir()
    first, second = (OutputFolder.claim(out, False, whole) for _ in range(2))
    with first:
        first.write_text("result.txt", "hours")
    wanted = "written to meanwhile" if whole or there else "another run is writing there"
    with pytest.raises(ValueError, match=wanted), second:
        second.write_text("result.txt", "lost")
    assert contents(out) == {"result.txt": "hours"} and not (out / STAGING).exists()
    with OutputFolder.claim(out, overwrite=True):  # nothing is left locked
        pass


PASSING = ("recipe.toml", "weights.safetensors")


def staged(folder, *names):
    """An old result, and what a process that was killed while it overwrote it had staged."""
    (folder / STAGING).mkdir()
    (folder / "scores.json").write_text("old")
    for name in names:
        (folder / STAGING / name).parent.mkdir(exist_ok=True)
        (folder / STAGING / name).write_text("half")


def passing(folder, names=PASSING):
    return replace(OutputFolder.claim(folder, overwrite=True), passing=names)


@pytest.mark.parametrize("names", [(), ("recipe.toml",), (*PASSING, ".state.pt.x1.part")])
def test_of_what_was_staged_and_says_nothing_is_nothing_kept(tmp_path, names):
    staged(tmp_path, *names)
    with passing(tmp_path) as folder:
        assert [*(tmp_path / STAGING).iterdir()] == []
        folder.write_text("scores.json", "new")
        assert (tmp_path / "scores.json").read_text() == "old"
    assert contents(tmp_path) == {"scores.json": "new"}


@pytest.mark.parametrize("name", ["state.pt", ".launch", "scores.json", "figures/1.png"])
def test_what_else_was_staged_stays_and_keeps_others_out(tmp_path, name):
    staged(tmp_path, "recipe.toml", name)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"unfinished exists: .* was cut off"), passing(tmp_path):
        raise AssertionError
    assert contents(tmp_path) == before
    shutil.rmtree(tmp_path / STAGING)
    with passing(tmp_path):  # nothing is left locked
        pass


def test_what_another_command_has_staged_stays(tmp_path):
    staged(tmp_path, "recipe.toml")
    with pytest.raises(ValueError, match="was cut off"), passing(tmp_path, ()):
        raise AssertionError
    assert (tmp_path / STAGING / "recipe.toml").is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the lock is another process'")
def test_what_a_process_stages_that_goes_on_stays(tmp_path):
    (tmp_path / "scores.json").write_text("old")
    with passing(tmp_path) as folder:
        folder.write_text("recipe.toml", "new")
        with pytest.raises(ValueError, match="another run is writing there"), passing(tmp_path):
            raise AssertionError
        assert (tmp_path / STAGING / "recipe.toml").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no such locks")
def test_where_nothing_can_be_locked_whatever_is_staged_stays(tmp_path, monkeypatch):
    """Its process may go on."""

    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    staged(tmp_path, "recipe.toml")
    with pytest.raises(ValueError, match="another run is writing there"), passing(tmp_path):
        raise AssertionError
    assert (tmp_path / STAGING / "recipe.toml").is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no such locks")
@pytest.mark.parametrize("locked", [True, False])
def test_a_mark_alone_keeps_others_out_where_nothing_can_be_locked(tmp_path, monkeypatch, locked):
    """Else the lock says whether its run is lost."""

    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / MARK).write_text("mine")
    if locked:
        with OutputFolder.claim(tmp_path, overwrite=False) as folder:
            folder.write_text("result.txt", "new")
        assert contents(tmp_path)["result.txt"] == "new"
        return
    monkeypatch.setattr("fcntl.flock", none)
    folder = OutputFolder.claim(tmp_path, overwrite=False)
    with pytest.raises(ValueError, match="written to meanwhile"), folder:
        raise AssertionError
    assert contents(tmp_path) == {MARK: "mine"}


OLD = {"a/result.txt": "old", "notes.txt": "mine", "scores.json": "old", "weights.txt": "old"}
NEW = {"a/result.txt": "new", "scores.json": "new", "weights.txt": "new", "z/more.txt": "new"}


def overwritten(folder):
    """New files over old ones."""
    for name, text in OLD.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with OutputFolder.claim(folder, overwrite=True) as claimed:
        for name, text in NEW.items():
            claimed.write_text(name, text)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("count", range(7))
def test_a_result_that_cannot_be_put_in_place_is_not_lost_and_the_old_one_stays(
    tmp_path, monkeypatch, count, error
):
    """Whichever of the renames fails: three old files go aside, four new ones come."""
    calls, real = [], Path.replace

    def failing(source, target):
        calls.append(source)
        if len(calls) == count + 1:
            raise error
        return real(source, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(ValueError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        overwritten(tmp_path)
    assert contents(tmp_path) == OLD | {f"{STAGING}/{name}": text for name, text in NEW.items()}
    assert not (tmp_path / "z").exists()
    if isinstance(error, OSError):
        assert "finished but cannot be put in place: No space left" in str(caught.value)
        assert str(tmp_path / STAGING) in str(caught.value)


def test_scores_go_first_and_come_last(tmp_path, monkeypatch):
    """A run that was killed in between must not be taken for a finished one."""
    seen, real = [], Path.replace

    def watched(source, target):
        result = real(source, target)
        there = {name for name, text in contents(tmp_path).items() if STAGING not in name}
        seen.append(("scores.json" in there, there))
        return result

    monkeypatch.setattr(Path, "replace", watched)
    overwritten(tmp_path)
    assert [scored for scored, _ in seen] == [False] * 6 + [True]
    assert contents(tmp_path) == OLD | NEW


def test_a_folder_that_became_read_only_is_found_before_anything_is_replaced(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("old")
    with (
        pytest.raises(ValueError, match="sub is read-only; the new files lie in"),
        OutputFolder.claim(tmp_path, True) as folder,
    ):
        folder.write_text("a.txt", "new")
        folder.write_text("sub/b.txt", "new")
        (tmp_path / "sub").chmod(0o500)
    (tmp_path / "sub").chmod(0o700)
    staged = {f"{STAGING}/a.txt": "new", f"{STAGING}/sub/b.txt": "new"}
    assert contents(tmp_path) == {"a.txt": "old"} | staged


def test_a_folder_where_a_file_should_go_is_found_before_anything_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "b.txt").mkdir()
    (tmp_path / "b.txt" / "inner").write_text("old")
    with (
        pytest.raises(ValueError, match="is in the way"),
        OutputFolder.claim(tmp_path, True) as folder,
    ):
        folder.write_text("a.txt", "new")
        folder.write_text("b.txt", "new")
    staged = {f"{STAGING}/{name}": "new" for name in ("a.txt", "b.txt")}
    assert contents(tmp_path) == {"a.txt": "old", "b.txt/inner": "old"} | staged


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process is killed as the system would")
@pytest.mark.parametrize("call", range(1, 4))
def test_a_kill_while_a_result_is_put_in_place_is_told_of(tmp_path, call):
    out = tmp_path / "run"
    with OutputFolder.claim(out, overwrite=False) as folder:
        for name in ("a", "b"):
            folder.write_text(name, "old")
    child = os.fork()
    if child == 0:
        calls, replace = itertools.count(), Path.replace

        def killed(self, target):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = killed
        try:
            with OutputFolder.claim(out, overwrite=True) as folder:
                for name in ("a", "b"):
                    folder.write_text(name, "new")
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    files = [path for path in out.rglob("*") if path.name in ("a", "b")]
    assert sorted(path.read_text() for path in files) == ["new", "new", "old", "old"]
    for again in (
        lambda: OutputFolder.claim(out, overwrite=False),
        lambda: OutputFolder.claim(out, overwrite=True),
        lambda: OutputFolder.reopen(out, "a"),
    ):
        with pytest.raises(ValueError, match=r"was cut off while .*\.replaced"):
            again()


def test_parts_are_put_in_place_one_by_one(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("old")
    with pytest.raises(RuntimeError), OutputFolder.claim(tmp_path, overwrite=True) as folder:
        for name in ("a", "b"):
            folder.write_text(name, "new")
            assert (tmp_path / name).read_text() == "old"
            folder.put_in_place()
            assert contents(tmp_path) == {"a": "new", "b": "old", "c": "old"} | {name: "new"}
        folder.write_text("c", "half")
        raise RuntimeError
    assert contents(tmp_path) == {"a": "new", "b": "new", "c": "old"}
    assert not (tmp_path / STAGING).exists()


def test_a_new_folder_has_its_parts_in_place_anyway(tmp_path):
    with OutputFolder.claim(tmp_path / "run", overwrite=False) as folder:
        folder.write_text("a", "new")
        folder.put_in_place()
        assert contents(tmp_path / "run") == {"a": "new"}


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_retired_goes_when_the_new_is_in_place(tmp_path, fails):
    old = {"a": "old", "deep/b": "old", "c": "old", "mine": "old"}
    for name, text in old.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    error = pytest.raises(RuntimeError) if fails else contextlib.nullcontext()
    with error, OutputFolder.claim(tmp_path, overwrite=True) as folder:
        folder.write_text("c", "new")
        for name in ("a", "deep/b", "c", "never there"):
            folder.retire(name)
        assert contents(tmp_path).items() >= old.items()
        if fails:
            raise RuntimeError
    assert contents(tmp_path) == (old if fails else {"c": "new", "mine": "old"})


@pytest.mark.parametrize("name", ["../else", "a/../../else", "/else"])
def test_nothing_outside_is_retired(tmp_path, name):
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(ValueError, match="does not lie in"),
        OutputFolder.claim(tmp_path / "out", overwrite=True) as folder,
    ):
        folder.retire(name)


@pytest.mark.parametrize("count", range(4))
def test_a_part_that_cannot_be_put_in_place_is_not_lost(tmp_path, monkeypatch, count):
    """Whichever of the renames fails: one old file and one retired go aside, two new ones come."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "gone").write_text("old")
    calls, real = [], Path.replace

    def failing(source, target):
        calls.append(source)
        if len(calls) == count + 1:
            raise OSError(28, "No space left on device")
        return real(source, target)

    with (
        pytest.raises(ValueError, match="finished but cannot be put in place: No space left"),
        OutputFolder.claim(tmp_path, overwrite=True) as folder,
    ):
        monkeypatch.setattr(Path, "replace", failing)
        folder.retire("gone")
        for name in ("a", "b"):
            folder.write_text(name, "new")
        folder.put_in_place()
    staged = {f"{STAGING}/{name}": "new" for name in ("a", "b")}
    assert contents(tmp_path) == {"a": "old", "gone": "old"} | staged
