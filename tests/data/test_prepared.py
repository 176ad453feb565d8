"""Prepared cases are whole or not there: a full disk, a cut-off file and two writers at once included."""

from __future__ import annotations

import contextlib
import resource

import numpy as np
import pytest
from scans import volumes, write_case

from keelnet.data.cases import find_cases
from keelnet.data.prepared import Prepared
from keelnet.data.scans import read_scans, settle


@contextlib.contextmanager
def files_of_at_most(size):
    """What a full disk does to a process: a write takes less than it is given, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def scan(tmp_path):
    write_case(tmp_path / "scans", "a")
    (scan,) = read_scans(settle(find_cases([tmp_path / "scans"])))
    return scan


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_full_disk_leaves_nothing_that_passes_for_a_case(size, scan, tmp_path):
    prepared = Prepared(tmp_path / "cache")
    with files_of_at_most(size), pytest.raises(OSError, match="too large.*a.x.npy"):
        prepared.add(scan, signature="s")
    assert not list(prepared.folder.iterdir()) and not prepared.has("a", "s")
    prepared.add(scan, signature="s")
    assert prepared.has("a", "s")


def test_a_case_whose_files_were_cut_off_counts_no_more(scan, tmp_path):
    prepared = Prepared(tmp_path / "cache")
    prepared.add(scan, signature="s")
    for path in sorted(prepared.folder.iterdir()):
        content = path.read_bytes()
        for length in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert not prepared.has("a", "s"), path.name
        path.unlink()
        assert not prepared.has("a", "s")
        path.write_bytes(content)
    assert prepared.has("a", "s") and not prepared.has("a", "another")
    np.testing.assert_array_equal(np.asarray(prepared.volume("a").x) == 0, volumes()[:, 0:] == 0)
