"""Laws of the IDX format: what was written is read, everything else is refused in one sentence."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from keelnet.data.idx import read_idx


def written(array, kind=0x08):
    """The bytes of an IDX file."""
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


IMAGES = np.arange(2 * 3 * 4).reshape(2, 3, 4)


@given(shape=some.lists(some.integers(1, 5), min_size=1, max_size=3), packed=some.booleans())
def test_what_was_written_is_read(tmp_path_factory, shape, packed):
    array = np.random.default_rng(0).integers(0, 256, shape)
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(written(array)) if packed else written(array))
    found = read_idx(path, len(shape))
    assert found.dtype == np.uint8 and np.array_equal(found, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG\r\n", "no IDX file"),
        (written(IMAGES, kind=0x0D), "got 3 axes of type 0x0d"),
        (written(IMAGES.ravel()), r"must hold images \(3 axes\).*got 1 axes"),
        (written(IMAGES)[:10], "cut off within its shape"),
        (written(IMAGES)[:-1], "must hold 24 values .*got 23"),
        (written(IMAGES) + b"\0", "must hold 24 values .*got 25"),
        (written(IMAGES[:0]), "must hold 0 values"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_idx_is_refused(tmp_path, content, message, packed):
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_idx(path, 3)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("broken", ["cut", "unpacked", "damaged"])
def test_a_broken_gz_is_refused(tmp_path, broken):
    packed = gzip.compress(written(IMAGES))
    damaged = packed[:12] + bytes([packed[12] ^ 0xFF]) + packed[13:]
    contents = {"cut": packed[:-9], "unpacked": written(IMAGES), "damaged": damaged}
    path = tmp_path / "file.gz"
    path.write_bytes(contents[broken])
    with pytest.raises(ValueError, match=r"cannot be unpacked|must hold|no IDX"):
        read_idx(path, 3)
