"""Prepared cases are whole or not there: a full disk, a cut-off file and two writers at once included."""

from __future__ import annotations

import gzip
import pickle
from dataclasses import replace

import numpy as np
import pytest
from disks import files_of_at_most
from scans import NEW, SHAPE, volumes, write_case

from keelnet.data import prepared as module
from keelnet.data.cases import find_cases
from keelnet.data.conventions import convention_named
from keelnet.data.prepared import Prepared, content_of
from keelnet.data.scans import read_scans, settle


@pytest.fixture
def scan(tmp_path):
    write_case(tmp_path / "scans", "a")
    (scan,) = read_scans(settle(find_cases([tmp_path / "scans"])))
    return scan


@pytest.mark.parametrize("spacing", [None, 3.0])
def test_image_classes_and_places_are_cropped_alike(spacing, scan, tmp_path):
    """What lies beyond the margin changes nothing: of the brain, which leaves out the first plane, it is 2 voxels."""

    def padded(name, *sides):
        x = np.pad(scan.x, ((0, 0), *sides))
        return replace(scan, name=name, x=x, classes=np.pad(scan.classes, sides))

    prepared = Prepared(tmp_path / "cache")
    prepared.add(padded("close", (1, 2), (2, 2), (2, 0)), spacing)
    prepared.add(padded("wide", (6, 2), (2, 9), (5, 0)), spacing)
    close, wide = prepared.volume("close"), prepared.volume("wide")
    assert close.spacing == wide.spacing
    for name in ("x", "classes", "places"):
        np.testing.assert_array_equal(getattr(close, name), getattr(wide, name))
    at, labels = wide.places[:, :3].T, wide.places[:, 3]
    np.testing.assert_array_equal(wide.classes[tuple(at)], labels)
    assert len(labels) == np.count_nonzero(wide.classes) > 0
    if spacing is None:
        assert wide.space == (SHAPE[0] + 3, SHAPE[1] + 4, SHAPE[2] + 2)
        np.testing.assert_array_equal(wide.classes[1:-2, 2:-2, 2:], scan.classes)
        np.testing.assert_array_equal(wide.x[:, 1:-2, 2:-2, 2:] != 0, scan.x != 0)


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
    np.testing.assert_array_equal(np.asarray(prepared.volume("a").x) == 0, volumes() == 0)


def test_a_case_is_sent_to_a_worker_by_its_name(scan, tmp_path):
    """Not by its voxels, of which each worker would have a copy."""
    prepared = Prepared(tmp_path / "cache")
    prepared.add(scan)
    volume = prepared.volume("a")
    sent = pickle.dumps(volume)
    assert len(sent) < 1000 < volume.x.nbytes
    there = pickle.loads(sent)
    assert isinstance(there.x, np.memmap) and isinstance(there.classes, np.memmap)
    for name in ("x", "classes", "places"):
        np.testing.assert_array_equal(getattr(there, name), getattr(volume, name))
    for name in ("name", "spacing", "folder", "content"):
        assert getattr(there, name) == getattr(volume, name)


def full(classes):
    raise OSError(28, "No space left on device")


def test_a_case_that_was_half_replaced_by_another_counts_no_more(tmp_path, monkeypatch):
    write_case(tmp_path / "scans", "a", NEW, (1, 2, 3), "-")
    one, other = (
        next(read_scans(settle(find_cases([tmp_path / "scans"]), convention_named(labels))))
        for labels in ("brats2023", "msd")
    )
    prepared = Prepared(tmp_path / "cache")
    prepared.add(one, signature="one")
    assert prepared.has("a", "one")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(module, "_places", full)  # when the classes are replaced
        prepared.add(other, signature="other")
    assert not prepared.has("a", "one") and not prepared.has("a", "other")
    prepared.add(other, signature="other")
    assert prepared.has("a", "other")


def test_a_case_that_is_prepared_again_can_be_read_all_the_time(scan, tmp_path, monkeypatch):
    """Two runs that begin at once prepare the same: the one that is ready first reads on."""
    prepared = Prepared(tmp_path / "cache")
    prepared.add(scan, signature="s")
    monkeypatch.setattr(module, "_places", full)
    with pytest.raises(OSError, match="No space left"):
        prepared.add(scan, signature="s")
    assert prepared.has("a", "s")
    with pytest.raises(OSError, match="No space left"):
        prepared.add(scan, 4.0, signature="s")  # on other voxels it is another
    assert not prepared.has("a", "s")


def read(folder):
    return next(read_scans(settle(find_cases([folder]), convention_named("brats2021"))))


def test_a_case_is_known_by_its_voxels_whatever_files_hold_them(tmp_path):
    folder = write_case(tmp_path / "scans", "a")
    known = content_of(read(folder))
    for path in folder.iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=9))
    assert content_of(read(folder)) == known
    Prepared(tmp_path / "cache").add(read(folder), 4.0)
    assert Prepared(tmp_path / "cache").volume("a").content == known
    write_case(tmp_path / "scans", "a", affine=np.diag([2.0, -2.0, 2.0, 1.0]))
    assert content_of(read(folder)) != known  # turned round


@pytest.mark.parametrize("what", ["x", "classes", "geometry"])
def test_a_case_of_other_voxels_is_another(tmp_path, what):
    one = read(write_case(tmp_path / "scans", "a"))
    value = getattr(one, what)
    if what == "geometry":
        other = replace(one, geometry=replace(value, affine=value.affine * 1.5))
    else:
        changed = value.copy()
        changed[(..., 4, 3, 3)] = 1
        other = replace(one, **{what: changed})
    assert content_of(other) != content_of(one)
