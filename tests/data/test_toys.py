"""Laws of the points in the plane: where they lie, what sets the classes apart, what the seed draws."""

import math

import pytest
import torch

from keelnet.data.toys import ellipses, heights, peaks, swiss_roll

SETS = {
    ellipses: (1000, 200, 2000),
    swiss_roll: (514, 512, 2000),
    peaks: (4000, 1000, 2500),
}
EVERY = pytest.mark.parametrize("made", SETS, ids=lambda made: made.__name__)


def parts(samples):
    return samples.training, samples.validation, samples.test


@EVERY
def test_sizes_and_balance(made):
    samples = made(0)
    for (x, labels), size in zip(parts(samples), SETS[made], strict=True):
        assert x.shape == (size, 2) and x.dtype == torch.float32
        assert torch.bincount(labels).tolist() == [size // samples.classes] * samples.classes


@EVERY
def test_the_seed_decides(made):
    one, again, other = made(3), made(3), made(4)
    for (x, _), (same, _) in zip(parts(one), parts(again), strict=True):
        assert torch.equal(x, same)
    assert not torch.equal(one.test[0], other.test[0])


@EVERY
def test_no_point_is_in_two_parts(made):
    every = torch.cat([x for x, _ in parts(made(0))])
    assert len(every.unique(dim=0)) == len(every)


def test_an_ellipse_lies_within_the_other():
    for x, labels in parts(ellipses(1)):
        radius = (x[:, 0] ** 2 + (x[:, 1] / 0.4) ** 2).sqrt()
        assert bool((radius[labels == 0] < 1 + 1e-5).all())
        assert bool((radius[labels == 1] > 1 - 1e-5).all()) and float(radius.max()) < 2 + 1e-5
        # Uniform radii: a quarter of each class in each quarter of its range.
        quarters = torch.bincount(((radius - labels) * 4).long().clamp(0, 3), minlength=4)
        assert quarters.min() > 0.15 * len(x)


def test_the_arms_of_the_roll_are_equally_far_apart_along_every_ray():
    samples = swiss_roll(0)
    for x, labels in parts(samples):
        radius = x.double().norm(dim=1) - 0.2 * labels
        turn = torch.atan2(x[:, 1].double(), x[:, 0].double()) / (2 * math.pi)
        error = (2 * radius - turn).remainder(1)  # two turns while r goes from 0 to 1
        assert bool((torch.minimum(error, 1 - error)[radius > 0.01] < 1e-4).all())
        assert float(radius.min()) > -1e-6 and float(radius.max()) < 1 + 1e-6


def test_odd_points_train_and_even_ones_validate():
    samples = swiss_roll(0)
    (x, labels), (withheld, named) = samples.training, samples.validation
    inner, outer = x[labels == 0].norm(dim=1), x[labels == 1].norm(dim=1)
    assert torch.allclose(inner, torch.arange(0, 513, 2) / 512, atol=1e-6)
    assert torch.allclose(outer, 0.2 + torch.arange(0, 513, 2) / 512, atol=1e-6)
    between = withheld[named == 0].norm(dim=1)
    assert torch.allclose(between, torch.arange(1, 513, 2) / 512, atol=1e-6)
    assert torch.equal(swiss_roll(1).training[0], x)


def test_levels_are_equally_high():
    axis = torch.linspace(-3, 3, 256, dtype=torch.float64)
    every = heights(torch.cartesian_prod(axis, axis))
    low, high = float(every.min()), float(every.max())
    for x, labels in parts(peaks(0)):
        share = (heights(x.double()) - low) / (high - low) * 5
        assert bool((share >= labels - 1e-4).all()) and bool((share <= labels + 1 + 1e-4).all())


def test_heights_are_those_of_matlab():
    """Extremes and the value at the origin, as MATLAB gives them: 3/e − 1/(3e)."""
    origin = heights(torch.zeros(2, dtype=torch.float64))
    assert float(origin) == pytest.approx((3 - 1 / 3) / math.e, abs=1e-12)
    axis = torch.linspace(-3, 3, 49, dtype=torch.float64)  # MATLAB's default grid
    values = heights(torch.cartesian_prod(axis, axis))
    assert float(values.max()) == pytest.approx(8.0752, abs=1e-4)
    assert float(values.min()) == pytest.approx(-6.5466, abs=1e-4)
