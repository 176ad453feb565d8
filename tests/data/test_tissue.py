"""Laws of the tissue slices: an honest split, aligned augmentation, no leakage by intensity."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelnet.data import BrainMaps, Samples, TissueSlices, load_icbm152, tissue_slices, unchanged
from keelnet.data.tissue import normalised, slab_split

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def maps() -> BrainMaps:
    return load_icbm152()


@pytest.fixture(scope="module")
def slices(maps) -> TissueSlices:
    return tissue_slices(maps)


def epoch(samples: Samples, batch_size: int, seed: int):
    batches = samples.batches(batch_size, torch.Generator().manual_seed(seed))
    x, labels = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(labels)


def check_split(split, numbers, margin):
    parts = (*split.training, *split.margin, *split.validation)
    assert sorted(parts) == sorted(numbers)
    assert all(part == tuple(sorted(part)) for part in (split.training, split.validation))
    gaps = np.abs(np.subtract.outer(split.training, split.validation))
    assert gaps.min() > margin
    assert all(np.abs(np.subtract(n, split.validation)).min() <= margin for n in split.margin)


@settings(deadline=None)
@given(
    start=st.integers(0, 50),
    count=st.integers(30, 200),
    slab=st.integers(1, 8),
    margin=st.integers(1, 3),
    fraction=st.floats(0.05, 0.3),
)
def test_no_training_slice_touches_a_validation_slice(start, count, slab, margin, fraction):
    numbers = range(start, start + count)
    try:
        split = slab_split(numbers, slab, margin, fraction)
    except ValueError:
        # Refused only when slabs with their margins may fill everything.
        slabs = max(1, round(fraction * count / slab))
        assert slabs * (slab + 2 * margin) >= count - slabs
        return
    check_split(split, numbers, margin)
    wanted = fraction * count  # in whole slabs, and one at least
    assert abs(len(split.validation) - wanted) <= max(slab / 2, slab - wanted)


def test_default_split_withholds_spread_slabs(slices):
    split = slices.split
    check_split(split, range(min(split.training), max(split.training) + 1), margin=1)
    share = len(split.validation) / len(split.training + split.margin + split.validation)
    assert 0.15 < share < 0.25
    slabs = np.split(split.validation, np.flatnonzero(np.diff(split.validation) > 1) + 1)
    assert len(slabs) >= 3 and {len(slab) for slab in slabs} == {5}


def test_shapes_and_names(slices):
    samples: Samples = slices
    assert (samples.classes, samples.channels) == (4, 1)
    assert samples.class_names == ("background", "CSF", "GM", "WM")
    x, labels = samples.validation
    assert x.shape == (15, 1, 104, 120) and x.dtype == torch.float32
    assert labels.shape == (15, 104, 120) and labels.dtype == torch.int64
    assert set(labels.unique().tolist()) == {0, 1, 2, 3}
    assert torch.equal(x[:, 0] > 0, labels > 0)


def test_padding_keeps_every_brain_voxel(maps, slices):
    numbers = list(slices.split.validation)
    assert (slices.validation[1] > 0).sum() == maps.mask[:, :, numbers].sum()


def test_an_epoch_shows_every_slice_once(maps):
    plain = tissue_slices(maps, augmentation=unchanged)
    x, labels = epoch(plain, batch_size=7, seed=0)
    expected, expected_labels = plain.samples.training
    assert len(x) == len(plain.split.training) and len(x) % 7 != 0
    thin, thin_expected = (part[..., ::4, ::4].flatten(1) for part in (x, expected))
    order = torch.cdist(thin, thin_expected).argmin(1)
    assert sorted(order.tolist()) == list(range(len(x))) and order.tolist() != sorted(order)
    torch.testing.assert_close(x, expected[order])
    assert torch.equal(labels, expected_labels[order])


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_augmented_slices_keep_the_order_of_tissues(slices, seed):
    x, labels = epoch(slices, batch_size=16, seed=seed)
    assert x.shape == (48, 1, 104, 120) and labels.shape == (48, 104, 120)
    assert labels.min() >= 0 and labels.max() <= 3
    assert torch.isfinite(x).all() and torch.equal(x[:, 0] > 0, labels > 0)
    # Slice by slice, wherever there is enough of two tissues to compare.
    counts = torch.stack([(labels == c).sum((1, 2)) for c in range(4)])
    sums = torch.stack([(x[:, 0] * (labels == c)).sum((1, 2)) for c in range(4)])
    means = sums / counts.clamp(min=1)
    for darker, brighter in ((1, 2), (2, 3)):
        enough = (counts[darker] > 100) & (counts[brighter] > 100)
        assert enough.sum() > 10
        assert (means[darker] < means[brighter])[enough].all()


def test_the_generator_alone_decides(slices):
    one, again, other = (epoch(slices, 16, seed) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_training_leaves_validation_alone(slices):
    before = [part.clone() for part in slices.validation]
    epoch(slices, 16, 3)
    assert all(map(torch.equal, before, slices.validation))


def test_corruption_is_fixed_and_moves_nothing(slices):
    clean, labels = slices.validation
    one, again, other = (slices.validation_corrupted(seed) for seed in (0, 0, 1))
    assert torch.equal(one[0], again[0]) and not torch.equal(one[0], other[0])
    assert torch.equal(one[1], labels)
    assert torch.equal(one[0] > 0, clean > 0)
    error = (one[0] - clean)[clean > 0].square().mean().sqrt()
    assert 0.03 < error < 0.3


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.1, 1000))
def test_normalisation_forgets_the_scanner_gain(seed, gain):
    x = torch.rand((2, 1, 24, 24), generator=torch.Generator().manual_seed(seed))
    x = torch.where(x > 0.4, x, 0)
    torch.testing.assert_close(normalised(gain * x), normalised(x))
    above = (normalised(x) > 1).sum((1, 2, 3)) / (x > 0).sum((1, 2, 3))
    assert (above <= 0.05).all() and (above > 0.03).all()


def test_normalisation_accepts_an_empty_slice():
    assert not normalised(torch.zeros(1, 1, 8, 8)).any()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"slab": 0}, "slab must be"),
        ({"margin": 0}, "margin must be"),
        ({"validation_fraction": 0}, "validation_fraction must"),
        ({"validation_fraction": 1.0}, "validation_fraction must"),
        ({"validation_fraction": 0.9}, "none to train on"),
        ({"slab": 100}, "none to train on"),
        ({"smallest_brain": 0}, "smallest_brain must"),
        ({"smallest_brain": 0.9}, "lower smallest_brain"),
    ],
)
def test_impossible_choices_are_refused(maps, choice, message):
    with pytest.raises(ValueError, match=message):
        tissue_slices(maps, **choice)


def test_impossible_corruption_is_refused(slices):
    with pytest.raises(ValueError, match="noise"):
        slices.validation_corrupted(0, noise=-1)


@pytest.mark.parametrize("batch_size", [0, -1, 49])
def test_impossible_batch_size_is_refused_at_once(slices, batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        slices.batches(batch_size, torch.Generator())


def test_other_maps_serve_as_well(maps):
    stretched = replace(maps, t1=(0.5 * maps.t1).astype(np.float32))
    torch.testing.assert_close(
        tissue_slices(stretched).validation[0], tissue_slices(maps).validation[0]
    )
