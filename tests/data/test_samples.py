"""Laws of samples held in memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelnet.data import InMemory, Samples


def numbered(count: int, augmentation=None) -> InMemory:
    """Samples whose single value is their number and whose label is its parity."""
    x = torch.arange(float(count)).reshape(count, 1)
    pair = (x, torch.arange(count) % 2)
    names = ("even", "odd")
    if augmentation is None:
        return InMemory(pair, (x[:1], pair[1][:1]), names)
    return InMemory(pair, (x[:1], pair[1][:1]), names, augmentation)


@settings(deadline=None)
@given(data=st.data(), count=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_an_epoch_is_a_permutation(data, count, seed):
    batch_size = data.draw(st.integers(1, count))
    samples: Samples = numbered(count)
    batches = list(samples.batches(batch_size, torch.Generator().manual_seed(seed)))
    sizes = [len(x) for x, _ in batches]
    assert set(sizes[:-1]) <= {batch_size} and sizes[-1] == (count % batch_size or batch_size)
    x = torch.cat([x for x, _ in batches])[:, 0]
    labels = torch.cat([labels for _, labels in batches])
    assert sorted(x.tolist()) == list(range(count))
    assert torch.equal(labels, x.long() % 2)


def test_epochs_of_one_generator_differ():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.cat([x for x, _ in numbered(30).batches(10, generator)]) for _ in range(2))
    assert not torch.equal(one, other)


def test_augmentation_sees_training_batches_only():
    def negated(x, labels, generator):
        return -x - 1, labels

    samples = numbered(5, negated)
    ((x, _),) = samples.batches(5, torch.Generator())
    assert (x < 0).all() and (samples.validation[0] >= 0).all()


@pytest.mark.parametrize("batch_size", [0, -3, 6])
def test_impossible_batch_size_is_refused_at_once(batch_size):
    with pytest.raises(ValueError, match="batch_size must lie between 1 and the 5"):
        numbered(5).batches(batch_size, torch.Generator())


GOOD = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(1, dtype=torch.int64)), GOOD, "training must hold"),
        (GOOD, (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), "validation must hold"),
        (GOOD, (torch.zeros(2, 4), GOOD[1]), "3 channels"),
        ((GOOD[0], torch.tensor([0, 2])), GOOD, "name every class"),
        (GOOD, (GOOD[0], torch.tensor([-1, 0])), "name every class"),
        (GOOD, GOOD, "two classes or more, got zero alone"),
        ((torch.tensor([[1.0], [torch.nan]]), GOOD[1]), GOOD, "training x must hold finite"),
        (GOOD, (torch.full((2, 3), torch.inf), GOOD[1]), "validation x must hold finite"),
    ],
)
def test_impossible_pairs_are_refused(training, validation, message):
    with pytest.raises(ValueError, match=message):
        InMemory(training, validation, ("zero", "one"))


def test_a_test_set_is_checked_like_the_others():
    pair = (torch.zeros(2, 3), torch.tensor([0, 1]))
    assert InMemory(pair, pair, ("zero", "one"), test=pair).test is pair
    with pytest.raises(ValueError, match="test labels must lie"):
        InMemory(pair, pair, ("zero", "one"), test=(pair[0], torch.tensor([0, 2])))
    with pytest.raises(ValueError, match="test x must have the 3 channels"):
        InMemory(pair, pair, ("zero", "one"), test=(torch.zeros(2, 4), pair[1]))


@settings(deadline=None)
@given(count=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_fewer_are_drawn_from_all_classes_alike(count, seed):
    samples = numbered(40)
    x, labels = samples.fewer(count, seed).training
    assert len(x) == count and torch.equal(labels, x[:, 0].long() % 2)
    assert len(set(x[:, 0].tolist())) == count
    assert abs(int((labels == 0).sum()) - int((labels == 1).sum())) <= 1
    more = samples.fewer(min(count + 3, 40), seed).training[0][:, 0]
    assert set(x[:, 0].tolist()) <= set(more.tolist())


@pytest.mark.parametrize("count", [0, 1, 41])
def test_an_impossible_number_of_samples_is_refused(count):
    with pytest.raises(ValueError, match="samples must lie between 2 .one a class. and the 40"):
        numbered(40).fewer(count, 0)
