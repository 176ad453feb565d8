"""Laws of the Q-tips: what the images show, and that no local window can tell what the labels say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from keelnet.data.qtips import DARK, END, WHITE, Qtips, Rods, qtips
from keelnet.data.samples import Samples, Share

EIGHT = np.ones((3, 3))
SEEDS = st.integers(0, 2**62)
SHAPES = st.tuples(st.floats(6, 24), st.integers(0, 12)).map(
    lambda both: (both[0], int(np.ceil(both[0])) + 5 + both[1])
)


def epoch(samples: Qtips, batch_size: int, seed: int, share: Share | None = None):
    generator = torch.Generator().manual_seed(seed)
    batches = list(samples.batches(batch_size, generator, *([share] if share else [])))
    return torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches])


def objects(labels: torch.Tensor) -> list[np.ndarray]:
    """Masks of the connected parts of what is not background, corners included."""
    parts, count = ndimage.label(labels.numpy() > 0, EIGHT)
    return [parts == number for number in range(1, count + 1)]


def ends_of_brightness(x: np.ndarray, mask: np.ndarray, value: float) -> int:
    return ndimage.label(mask & (np.abs(x - value) < 0.01), EIGHT)[1]


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, shape=SHAPES, rods=st.integers(1, 8))
def test_every_rod_stands_alone_and_has_the_class_of_its_two_ends(seed, shape, rods):
    length, size = shape
    x, labels = qtips(seed, size=size, length=length, rods=rods, noise=0.0, withheld=4).validation
    assert x.shape == (4, 1, size, size) and labels.dtype == torch.int64
    assert bool(((x[:, 0] > 0) == (labels > 0)).all())
    for image, named in zip(x[:, 0].numpy(), labels, strict=True):
        found = objects(named)
        assert 1 <= len(found) <= rods
        for mask in found:
            (name,) = np.unique(named.numpy()[mask])
            white, dark = (ends_of_brightness(image, mask, value) for value in (WHITE, DARK))
            assert (white, dark) == (name - 1, 3 - name)


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, shape=SHAPES)
def test_rods_have_the_length_asked_for_and_lie_inside(seed, shape):
    length, size = shape
    rods = qtips(seed, size=size, length=length, withheld=8)._rods(
        8, torch.Generator().manual_seed(seed % 2**32)
    )
    ends = rods.ends[rods.present]
    torch.testing.assert_close(
        (ends[:, 0] - ends[:, 1]).norm(dim=-1), torch.full((len(ends),), float(length))
    )
    assert ends.min() >= END - 1e-3 and ends.max() <= size - 1 - END + 1e-3


def test_marks_are_fair_coins_of_no_relation_to_each_other_or_to_the_place():
    rods = qtips(1)._rods(2000, torch.Generator().manual_seed(0))
    marks, ends = rods.marked[rods.present].double(), rods.ends[rods.present].flatten(1)
    shares = torch.bincount((2 * marks[:, 0] + marks[:, 1]).long(), minlength=4) / len(marks)
    # Five standard errors of a share, and of a correlation.
    assert (shares - 0.25).abs().max() < 5 * (0.25 * 0.75 / len(marks)) ** 0.5
    together = torch.corrcoef(torch.cat([marks.T, ends.T.double()]))[:2]
    together[0, 0] = together[1, 1] = 0
    assert together.abs().max() < 5 / len(marks) ** 0.5


def test_all_directions_occur_equally_often_where_there_is_room():
    rods = qtips(0, size=64, rods=1)._rods(4000, torch.Generator().manual_seed(0))
    along = (rods.ends[:, 0, 1] - rods.ends[:, 0, 0]).double()
    angle = torch.atan2(along[:, 0], along[:, 1]) % torch.pi
    counts = torch.histc(angle, 8, 0, torch.pi)
    assert ((counts - 500).abs() < 5 * 500**0.5).all()


def windows(samples: Qtips, radius: int, batch: tuple[torch.Tensor, torch.Tensor]):
    """(rod pixels, (2 radius + 1)²) what a window shows, and the labels of its middle."""
    x, labels = batch
    padded = torch.nn.functional.pad(x, [radius] * 4)
    side = 2 * radius + 1
    seen = padded.unfold(2, side, 1).unfold(3, side, 1)[:, 0]
    rod = labels > 0
    return seen[rod].flatten(1).numpy(), labels[rod].numpy()


def learned_accuracy(samples: Qtips, radius: int) -> float:
    """Of a forest of trees on windows, on images that it has not seen."""
    seen, labels = windows(samples, radius, epoch(samples, samples.count, 5))
    forest = RandomForestClassifier(20, min_samples_leaf=5, max_samples=4000, random_state=0)
    shown, true = windows(samples, radius, samples.validation)
    return float((forest.fit(seen, labels).predict(shown) == true).mean())


@pytest.mark.parametrize("length", [12, 20])
def test_less_than_half_a_rod_is_worth_no_more_than_a_guess(length):
    samples = qtips(3, length=length, count=150, withheld=150)
    # Diagonal rods are the shortest along the sides of a window; less the ends, which have an extent.
    radius = int(length / 2**0.5 - 2 * END - 1) // 2
    assert samples.local_accuracy(radius) == 0.5
    _, labels = samples.validation
    guess = float((labels[labels > 0] == 2).double().mean())
    # Rods of an image count as one draw each: about 400, and five standard errors.
    assert abs(guess - 0.5) < 5 * (0.25 / 400) ** 0.5
    assert learned_accuracy(samples, radius) < guess + 0.05


def test_a_window_that_shows_both_ends_is_worth_more():
    samples = qtips(3, length=6, count=150, withheld=100)
    assert 0.6 < learned_accuracy(samples, 5) < samples.local_accuracy(5)


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, length=st.floats(6, 20))
def test_the_local_bound_grows_from_a_guess_to_certainty(seed, length):
    samples = qtips(seed, length=length, withheld=4)
    bounds = [samples.local_accuracy(radius) for radius in (0, int(length / 2), int(length) + 5)]
    assert bounds == sorted(bounds)
    assert (bounds[0], bounds[-1]) == (0.5, 1.0)
    assert samples.local_accuracy(10_000) == 1.0


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, other=SEEDS)
def test_the_same_seed_gives_the_same_images_and_no_other_does(seed, other):
    (x, labels), (again, same) = (qtips(seed, withheld=4).validation for _ in range(2))
    assert torch.equal(x, again) and torch.equal(labels, same)
    assert (seed == other) == torch.equal(x, qtips(other, withheld=4).validation[0])


@pytest.mark.parametrize("seed", [0, 1, 2, 2**62])
def test_training_from_the_number_of_the_validation_does_not_repeat_it(seed):
    samples = qtips(seed, count=20, withheld=20)
    for start in (seed, seed + 1, 2 * seed + 1):
        x, _ = epoch(samples, 20, start)
        assert not torch.equal(x, samples.validation[0])


def test_epochs_are_new_images_and_the_generator_decides_which():
    samples = qtips(count=20, withheld=1)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.cat([x for x, _ in samples.batches(8, generator)]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch(samples, 8, 0)[0])


@settings(deadline=None, max_examples=10)
@given(count=st.integers(1, 20), batch_size=st.integers(1, 20), size=st.integers(1, 4))
def test_shares_are_parts_of_the_same_batches(count, batch_size, size):
    samples = qtips(count=count, withheld=1)
    if batch_size > count:
        with pytest.raises(ValueError, match=f"use batch_size={count}"):
            samples.batches(batch_size, torch.Generator())
        return

    def batches(share: Share):
        return list(samples.batches(batch_size, torch.Generator().manual_seed(0), share))

    whole = batches(Share())
    assert [len(x) for x, _ in whole] == [
        min(batch_size, count - i) for i in range(0, count, batch_size)
    ]
    for rank in range(size):
        share = Share(rank, size)
        for (x, labels), (own, named) in zip(whole, batches(share), strict=True):
            taken = list(share.of(len(x)))
            assert torch.equal(own, x[taken]) and torch.equal(named, labels[taken])


def test_images_are_the_same_however_many_are_drawn_at_once(monkeypatch):
    samples = qtips(length=8, rods=3, withheld=7)
    x, labels = samples.validation
    for pixels in (1, 2 * 3 * samples.size**2):
        monkeypatch.setattr("keelnet.data.qtips.PIXELS", pixels)
        again, named = qtips(length=8, rods=3, withheld=7).validation
        assert torch.equal(x, again) and torch.equal(labels, named)


def test_it_is_samples_like_others():
    samples: Samples = qtips(withheld=8)
    assert samples.class_names == ("background", "none", "one", "two")
    assert (samples.classes, samples.channels) == (4, 1)
    assert set(torch.unique(samples.validation[1]).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"length": 5}, "at least 6"),
        ({"length": float("nan")}, "at least 6"),
        ({"length": float("inf")}, "at least 6"),
        ({"length": 28}, "size 33"),
        ({"count": 0}, "count"),
        ({"rods": 0}, "rods"),
        ({"rods": 33}, "rods must be at most 32"),
        ({"size": 513}, "size must be at most 512"),
        ({"withheld": 0}, "withheld"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("nan")}, "noise"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        qtips(**given)


def test_a_rod_that_just_fits_is_taken_and_a_radius_below_zero_is_not():
    assert (qtips(length=27, withheld=2).validation[1] > 0).any()
    with pytest.raises(ValueError, match="radius"):
        qtips(withheld=2).local_accuracy(-1)


def test_the_bound_of_many_images_takes_a_few_at_a_time(monkeypatch):
    made = qtips(size=64, withheld=40)
    whole = made.local_accuracy(3)
    seen, caps = [], Rods.caps

    def counted(rods, size):
        seen.append(len(rods.ends) * made.rods * size**2)
        return caps(rods, size)

    monkeypatch.setattr(Rods, "caps", counted)
    monkeypatch.setattr("keelnet.data.qtips.PIXELS", 4 * made.rods * 64**2)
    assert made.local_accuracy(3) == whole
    assert len(seen) == 10 and max(seen) <= 4 * made.rods * 64**2
