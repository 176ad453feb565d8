"""Laws of the small pictures."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelnet.data import InMemory, Samples, Shift, digits
from keelnet.data.images import InTurn, Mirror, Standardised, stratified

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def samples() -> InMemory:
    return digits()


def test_shapes_and_names(samples):
    faces: Samples = samples
    assert (faces.classes, faces.channels) == (10, 1)
    assert faces.class_names == tuple("0123456789")
    for x, labels in (samples.training, samples.validation):
        assert x.shape[1:] == (1, 8, 8) and x.dtype == torch.float32
        assert labels.shape == x.shape[:1] and labels.dtype == torch.int64
        assert x.min() == 0 and x.max() == 1


def test_training_and_validation_share_all_digits_out(samples):
    assert len(samples.training[0]) + len(samples.validation[0]) == 1797
    distances = torch.cdist(samples.training[0].flatten(1), samples.validation[0].flatten(1))
    assert distances.min() > 0


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    fraction=st.floats(0.01, 0.99),
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=6),
)
def test_every_class_is_split_alike(seed, fraction, counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    withheld = stratified(labels, fraction, seed)
    for label, count in enumerate(counts):
        chosen = int(withheld[labels == label].sum())
        assert 1 <= chosen < count and abs(chosen - fraction * count) <= 1


def test_seed_decides_the_split(samples):
    assert torch.equal(digits(seed=0).validation[0], samples.validation[0])
    assert not torch.equal(digits(seed=1).validation[0], samples.validation[0])


def test_no_augmentation_unless_asked(samples):
    batches = samples.batches(1437, torch.Generator().manual_seed(0))
    x = torch.cat([x for x, _ in batches])
    assert len(x) == len(samples.training[0])
    torch.testing.assert_close(x.sum(), samples.training[0].sum())
    assert torch.cdist(x[:50].flatten(1), samples.training[0].flatten(1)).min(1).values.max() == 0


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 3))
def test_shift_moves_images_whole(seed, pixels):
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(6, 2, 14, 15)
    x[:, :, 3:-3, 3:-3] = torch.rand((6, 2, 8, 9), generator=generator)
    labels = torch.arange(6)
    moved, same = Shift(pixels)(x, labels, generator)
    assert torch.equal(same, labels)
    steps = range(-pixels, pixels + 1)
    for before, after in zip(x, moved, strict=True):
        rolled = (before.roll((down, right), (1, 2)) for down in steps for right in steps)
        assert any(torch.equal(after, candidate) for candidate in rolled)


def test_shift_is_drawn_image_by_image():
    x = torch.zeros(20, 1, 8, 8)
    x[:, :, 4, 4] = 1
    moved, _ = Shift(1)(x, torch.zeros(20), torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 3


def test_import_does_not_load_scikit_learn():
    code = "import sys, keelnet.data; sys.exit('sklearn' in sys.modules)"
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=paths).returncode == 0


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        digits(validation_fraction=fraction)


def test_impossible_shift_is_refused():
    with pytest.raises(ValueError, match="pixels"):
        Shift(0)


@pytest.mark.parametrize("batch_size", [0, 1798])
def test_impossible_batch_size_is_refused(samples, batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        samples.batches(batch_size, torch.Generator())


def test_mirror_turns_half_of_the_images_and_nothing_else():
    x = torch.arange(400.0 * 12).reshape(400, 1, 3, 4)
    found, labels = Mirror()(x, torch.arange(400), torch.Generator().manual_seed(0))
    turned = [torch.equal(image, before.flip(-1)) for image, before in zip(found, x, strict=True)]
    kept = [torch.equal(image, before) for image, before in zip(found, x, strict=True)]
    assert all(one != other for one, other in zip(turned, kept, strict=True))
    assert 150 < sum(turned) < 250 and torch.equal(labels, torch.arange(400))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, channels=st.integers(1, 3))
def test_standardised_images_have_mean_0_and_deviation_1(seed, channels):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (6, channels, 5, 4), generator=generator, dtype=torch.uint8)
    scale = Standardised.of(x)
    found = scale.of_images(x)
    assert found.dtype == torch.float32
    assert found.double().mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (found.double().std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    value = (x[0, 0, 0, 0].double() - scale.mean[0]) / scale.deviation[0]
    assert float(found[0, 0, 0, 0]) == pytest.approx(float(value), abs=1e-5)


def test_images_of_one_grey_become_zero():
    x = torch.full((2, 1, 3, 3), 7, dtype=torch.uint8)
    assert bool((Standardised.of(x).of_images(x) == 0).all())


def test_augmentations_act_in_turn():
    def doubled(x, labels, generator):
        return 2 * x, labels

    def raised(x, labels, generator):
        return x + 1, labels + 1

    x, labels = InTurn((doubled, raised))(torch.ones(2), torch.zeros(2), torch.Generator())
    assert x.tolist() == [3, 3] and labels.tolist() == [1, 1]
