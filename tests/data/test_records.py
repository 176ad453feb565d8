"""Laws of headerless records: images and labels come back as they were, other files are refused."""

import numpy as np
import pytest

from keelnet.data.records import read_cifar, read_stl

RANDOM = np.random.default_rng(0)


def cifar(count, label_bytes, classes):
    """Images, labels and the bytes of a file."""
    images = RANDOM.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = RANDOM.integers(0, classes, (count, label_bytes), dtype=np.uint8)
    content = np.concatenate([labels, images.reshape(count, -1)], axis=1).tobytes()
    return images, labels[:, -1], content


@pytest.mark.parametrize(("label_bytes", "classes"), [(1, 10), (2, 100)])
def test_cifar_is_read_over_several_files(tmp_path, label_bytes, classes):
    parts = [cifar(count, label_bytes, classes) for count in (3, 2)]
    paths = [tmp_path / "one.bin", tmp_path / "two.bin"]
    for path, (_, _, content) in zip(paths, parts, strict=True):
        path.write_bytes(content)
    images, labels = read_cifar(paths, label_bytes, classes)
    assert np.array_equal(images, np.concatenate([part[0] for part in parts]))
    assert np.array_equal(labels, np.concatenate([part[1] for part in parts]))


@pytest.mark.parametrize("size", [0, 1, 3072, 3073 + 1])
def test_a_cut_off_cifar_is_refused(tmp_path, size):
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(ValueError, match=rf"records of 3073 bytes, got {size} bytes"):
        read_cifar([path], 1, 10)


def test_cifar_labels_of_another_set_are_refused(tmp_path):
    images, _, _ = cifar(2, 1, 10)
    path = tmp_path / "data.bin"
    wrong = np.full((2, 1), 77, np.uint8)
    path.write_bytes(np.concatenate([wrong, images.reshape(2, -1)], axis=1).tobytes())
    with pytest.raises(ValueError, match=r"must lie in 0\.\.9, got 77\.\.77"):
        read_cifar([path], 1, 10)


def test_stl_is_stored_by_columns_with_labels_from_one(tmp_path):
    images = RANDOM.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
    labels = np.array([1, 10, 3, 5], np.uint8)
    (tmp_path / "x.bin").write_bytes(images.swapaxes(2, 3).tobytes())
    (tmp_path / "y.bin").write_bytes(labels.tobytes())
    found, named = read_stl(tmp_path / "x.bin", tmp_path / "y.bin")
    assert np.array_equal(found, images) and named.tolist() == [0, 9, 2, 4]


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (27648 * 2 - 1, [1, 2], "records of 27648 bytes"),
        (27648 * 2, [1], "as many labels as x.bin images, 2, got 1"),
        (27648 * 2, [0, 1], r"must lie in 1\.\.10, got 0\.\.1"),
        (27648 * 2, [1, 11], r"must lie in 1\.\.10, got 1\.\.11"),
    ],
)
def test_a_broken_stl_is_refused(tmp_path, pixels, labels, message):
    (tmp_path / "x.bin").write_bytes(bytes(pixels))
    (tmp_path / "y.bin").write_bytes(bytes(labels))
    with pytest.raises(ValueError, match=message):
        read_stl(tmp_path / "x.bin", tmp_path / "y.bin")
