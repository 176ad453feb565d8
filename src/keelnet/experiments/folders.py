"""Output folders: nothing is overwritten unasked, nothing old is lost before the new is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

STAGING = ".unfinished"
MARK = ".launch"  # holds the name of the torchrun that has begun a run there
PATIENCE = 15.0  # seconds
PARTIAL = ".part"  # how the name of a file ends that is not whole
REPLACED = ".replaced"  # in the staging: old files, while the new ones are put in place
SIGNS = ("scores.json", "table.json")  # say that a result is whole: last to come, first to go


class UnplacedError(ValueError):
    """A finished result that could not be put in place; it stays where it was staged."""


@dataclass(frozen=True)
class OutputFolder:
    """A folder for results; use it in a ``with`` statement.

    A new folder is written directly, each file under a temporary name and then renamed. Where an
    old result is overwritten the new files are staged in ``.unfinished`` and put in place together
    at the end; if the work fails, the old files are as they were, and so they are where the new ones cannot be put in
    place, which then stay in ``.unfinished``. Files of other names stay, but for those that are retired.
    Work whose parts are whole by themselves puts what is staged in place after each (`put_in_place`).
    ``lasting``: where the work fails, what was staged stays, for `reopen`; what was reopened does while it has the file
    that it was known by. While a folder is in use no other process of this machine may use it: the system frees the
    lock of a killed one. ``passing``: files of which nothing can be made; where a killed process has staged no others,
    they go.
    """

    path: Path
    staged: bool
    existed: bool
    reopened: bool = False
    lasting: bool = False
    sign: str = ""  # a file by which work that can be gone on with is known
    fresh: bool = False  # nothing was there to be overwritten
    passing: tuple[str, ...] = ()
    retired: list[str] = field(default_factory=list, compare=False, repr=False)
    lock: list[int] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def claim(cls, path: Path, overwrite: bool, whole: bool = False) -> OutputFolder:
        """The right to write to ``path``; with ``whole`` all files appear together or none does.

        Raises ValueError for a file in the way, a folder that is not empty (unless ``overwrite``)
        and a folder that cannot be written.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"output folder {path} is a file; choose another with --out")
        _require_in_place(path)
        taken = occupied(path)
        if taken and not overwrite:
            raise ValueError(
                f"output folder {path} exists and is not empty; choose another with --out,"
                " or replace its results with --overwrite"
            )
        _require_writable(path)
        return cls(path, taken or whole, path.exists(), fresh=not taken)

    @classmethod
    def reopen(cls, path: Path, sign: str) -> OutputFolder:
        """What an interrupted run left, known by its file ``sign``; raises ValueError where there is none."""
        _require_in_place(path)
        for staged in (True, False):
            folder = cls(path, staged, True, reopened=True, sign=sign)
            if (folder.root / sign).is_file():
                _require_writable(path)
                return folder
        raise ValueError(f"{path} holds no interrupted run (no {sign}): start one without --resume")

    @property
    def root(self) -> Path:
        """Where files are written now."""
        return self.path / STAGING if self.staged else self.path

    def __enter__(self) -> OutputFolder:
        """Take the folder: its lock, or making it (or the staging in it), is what keeps a second run out."""
        if self.reopened:
            self._lock()
            if not (self.root / self.sign).is_file():  # it has ended meanwhile
                self._unlock()
                raise ValueError(f"{self.path} holds no interrupted run any more: it has ended")
            for left in self.root.rglob(f".*{PARTIAL}"):  # by a process killed while it wrote
                left.unlink(missing_ok=True)
            return self
        own = False
        try:
            self.path.mkdir(parents=True, exist_ok=self.staged or self.existed)
            own = self._lock()
            if self.staged:
                if own and self._is_passing():
                    shutil.rmtree(self.root)
                self.root.mkdir()
        except FileExistsError:
            self._unlock()
            whose = "a run" if own else "another run is writing there, or one"
            again = "go on with it (--resume), " * (own and (self.root / self.sign).is_file())
            raise ValueError(
                f"{self.root} exists: {whose} was cut off; {again}move it away or choose another folder with --out"
            ) from None
        except OSError as error:
            self._unlock()
            raise ValueError(
                f"output folder {self.path} cannot be made: {error.strerror}; choose another with --out"
            ) from None
        self._require_fresh(own)
        return self

    def _is_passing(self) -> bool:
        """Whether a staging is there of which nothing can be made."""
        return self.root.is_dir() and all(
            _is_file(item) and (item.name in self.passing or item.name.endswith(PARTIAL))
            for item in self.root.iterdir()
        )

    def _require_fresh(self, own: bool) -> None:
        """Data may be made ready for minutes before the work. Without a lock a mark may be of one at work."""
        marked = not own and (self.path / MARK).exists()
        if self.fresh and (marked or occupied(self.path)):
            if self.staged:  # ours, made just now
                self.root.rmdir()
            self._unlock()
            raise ValueError(
                f"output folder {self.path} was written to meanwhile; choose another with --out"
            )

    def _lock(self) -> bool:
        """Whether the folder is this process' own: not known where there are no such locks.

        Raises ValueError where another process is at work in it.
        """
        try:
            import fcntl
        except ImportError:
            return False
        handle = os.open(self.path, os.O_RDONLY)
        self.lock.append(handle)
        # Processes that a killed run has forked hold its lock until they notice.
        end = time.monotonic() + (PATIENCE if self.reopened else 0)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    return False  # a file system that has no locks
                if time.monotonic() > end:
                    self._unlock()
                    raise ValueError(
                        f"{self.path}: another run is writing there; wait for it, or choose another folder with --out"
                    ) from None
                time.sleep(0.1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._close(kind, error)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        while self.lock:
            import fcntl

            handle = self.lock.pop()
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # for processes that were forked, too
            os.close(handle)

    def _close(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        if kind is None:
            self.put_in_place()
        lasts = self.lasting or (self.reopened and (self.root / self.sign).is_file())
        stuck = isinstance(error, UnplacedError) or (self.root / REPLACED).is_dir()
        if self.staged and not (kind is not None and (lasts or stuck)):
            shutil.rmtree(self.root, ignore_errors=True)
        if kind is not None and not self.existed and not any(self.path.iterdir()):
            self.path.rmdir()
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:  # which is not the folder's
            raise ValueError(
                f"output folder {self.path} cannot be written: {error.strerror}; choose another with --out"
            ) from error

    def put_in_place(self) -> None:
        """Move what is staged now to its names, and old files aside: all of it, or nothing where that fails.

        The folder can be written to further. Without effect where files are written directly.
        """
        if not self.staged:
            return
        aside = self.root / REPLACED
        found = (item for item in self.root.rglob("*") if aside not in (item, *item.parents))
        items = sorted(found, key=lambda item: (item.name in SIGNS, item))
        pairs = [(item, self.path / item.relative_to(self.root)) for item in items]
        files = [(item, target) for item, target in pairs if not item.is_dir()]
        gone = [target for _, target in reversed(files) if os.path.lexists(target)]
        gone += [path for path in map(self.path.joinpath, self.retired) if _is_file(path)]
        old = [(target, aside / target.relative_to(self.path)) for target in dict.fromkeys(gone)]
        try:
            self._require_replaceable(pairs)
            with contextlib.ExitStack() as undo:
                for source, target in [*old, *files]:
                    _make_folder(target.parent, undo)
                    undo.callback(_move_back, target, source)
                    source.replace(target)
                undo.pop_all()
        except OSError as failure:
            raise UnplacedError(
                f"the result for {self.path} is finished but cannot be put in place: {failure.strerror or failure};"
                f" the new files lie in {self.root}: move them by hand"
            ) from failure
        self.retired.clear()
        shutil.rmtree(aside, ignore_errors=True)

    def _require_replaceable(self, pairs: Sequence[tuple[Path, Path]]) -> None:
        """Before anything is moved: no folder in the way of a file or the other way round, none that is read-only."""
        for item, target in pairs:
            if target.exists() and item.is_dir() != target.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{target} is in the way")
            if target.parent.is_dir() and _read_only(target.parent):
                raise PermissionError(errno.EACCES, f"{target.parent} is read-only")

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write one file whole: under a temporary name, then renamed."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(PARTIAL, f".{target.name}.", target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target

    def retire(self, name: str) -> None:
        """An old file that goes when the new ones are put in place, unless one of them bears its name; none is fine."""
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"{name} does not lie in {self.path}")
        self.retired.append(name)

    def remove(self, name: str) -> None:
        """A file that is no longer needed; none is fine."""
        (self.root / name).unlink(missing_ok=True)

    def write_text(self, name: str, content: str) -> Path:
        """``write_bytes`` in UTF-8."""
        return self.write_bytes(name, content.encode())


def occupied(path: Path) -> bool:
    """Whether anything but a staging, or the mark of a run that was lost before its first file, lies there."""
    return path.is_dir() and any(item.name not in (STAGING, MARK) for item in path.iterdir())


def _require_in_place(path: Path) -> None:
    """Nothing is lost where the process was killed meanwhile, but neither the old nor the new result is whole."""
    aside = path / STAGING / REPLACED
    if aside.is_dir():
        raise ValueError(
            f"{path} was cut off while its result was put in place: the old files lie in {aside}, the new ones in"
            f" {path / STAGING} and {path}; move those that you want to {path}, then remove {path / STAGING}"
        )


def _is_file(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _make_folder(path: Path, undo: contextlib.ExitStack) -> None:
    """With those above it; what was made goes again where the stack is unwound."""
    if not path.is_dir():
        _make_folder(path.parent, undo)
        path.mkdir()
        undo.callback(_remove_folder, path)


def _remove_folder(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def _move_back(moved: Path, source: Path) -> None:
    with contextlib.suppress(OSError):  # it was not moved yet
        moved.replace(source)


def _require_writable(path: Path) -> None:
    """Also where the user may do anything: a folder without write permission was meant to be kept."""
    nearest = path
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ValueError(f"output folder {path} cannot be made: {nearest} is no folder")
    if _read_only(nearest):
        raise ValueError(f"output folder {path} cannot be written: {nearest} is read-only")


def _read_only(folder: Path) -> bool:
    marked = not folder.stat().st_mode & 0o222
    return marked or not os.access(folder, os.W_OK | os.X_OK)
