"""Laws of the cache of compiled kernels: no variant is another's, and without a cache kernels are the same."""

from __future__ import annotations

import errno

import pytest

pytest.importorskip("numba")

from numba import types
from numba.core import config
from numba.core.caching import IndexDataCacheFile

from keelnet.propagation.engines.tile_sources import compiled


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def adding(number):
    """The kernel of x + number."""

    @compiled(types.int64(types.int64))
    def kernel(x):
        return x + number

    return kernel


def test_each_variant_has_files_of_its_own(folder):
    adding(1), adding(2)
    assert adding(1).cache_hits == 1
    for suffix in ("nbi", "nbc"):
        assert len(list(folder.rglob(f"*.{suffix}"))) == 2


def test_processes_that_compile_at_once_do_not_exchange_their_code(monkeypatch):
    written = []
    with monkeypatch.context() as both:  # each reads the index before the other writes
        both.setattr(IndexDataCacheFile, "_load_index", lambda file: {})
        both.setattr(IndexDataCacheFile, "_save_data", lambda *data: written.append(data))
        adding(1), adding(2)
    for data in reversed(written):
        IndexDataCacheFile._save_data(*data)
    again = adding(1), adding(2)
    assert [each.ctypes(40) for each in again] == [41, 42]
    assert [each.cache_hits for each in again] == [1, 1]


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_damaged_cache_is_as_none(folder, suffix, kept):
    adding(1)
    (path,) = folder.rglob(f"*.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert adding(1).ctypes(40) == 41


def test_where_there_is_no_room_kernels_are_not_cached(monkeypatch):
    def full(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    assert adding(1).ctypes(40) == 41


def test_a_closure_without_a_stable_text_is_refused():
    """Its digest would differ from process to process, and the cache would never be read."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        adding(object())
