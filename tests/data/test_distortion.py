"""Laws of the distortion: images and labels move together, and strengths mean what they say."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelnet.data.distortion import Distortion, biased, noisy

SEEDS = st.integers(0, 2**32 - 1)
NONE = {field.name: 0 for field in fields(Distortion) if field.name != "spacing"}
VALUES = torch.tensor([0.0, 0.3, 0.7, 1.0])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def patchwork(seed, size=(3, 64, 80)):
    """Blocky labels in a frame of background, and the image that shows them by intensity."""
    blocks = torch.randint(1, 4, (size[0], 1, 5, 5), generator=generator(seed)).float()
    labels = torch.nn.functional.interpolate(blocks, size[1:])[:, 0].long()
    labels[:, :12], labels[:, -12:], labels[..., :12], labels[..., -12:] = 0, 0, 0, 0
    return VALUES[labels][:, None], labels


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_image_and_labels_move_together(seed):
    x, labels = patchwork(seed)
    moved, there = Distortion().moved(x, labels, generator(seed))
    assert moved.shape == x.shape and there.shape == labels.shape and there.dtype == torch.int64
    window = torch.nn.functional.max_pool2d
    highest, lowest = (sign * window(sign * there[:, None].float(), 3, 1, 1) for sign in (1, -1))
    deep = (highest == lowest)[:, 0]
    assert deep.float().mean() > 0.4
    torch.testing.assert_close(moved[:, 0][deep], VALUES[there][deep], atol=1e-4, rtol=0)
    assert not torch.equal(there, labels)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_background_stays_zero_and_brain_positive(seed):
    x, labels = Distortion()(*patchwork(seed), generator(seed))
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3}
    assert torch.equal(x[:, 0] > 0, labels > 0)
    assert torch.isfinite(x).all()


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_the_rim_does_not_darken(seed):
    labels = patchwork(seed)[1].clamp(max=1)
    moved, there = Distortion().moved(labels[:, None].float(), labels, generator(seed))
    torch.testing.assert_close(moved[:, 0], there.float(), atol=1e-5, rtol=0)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([(2.0, 16.0), (1.0, 8.0), (5.0, 40.0)]))
def test_the_strongest_warp_does_not_fold(seed, strength):
    distortion = Distortion(displacement=strength[0], spacing=strength[1], flip=0)
    ramps = torch.meshgrid(torch.arange(1.0, 105), torch.arange(1.0, 121), indexing="ij")
    labels = torch.ones(1, 104, 120, dtype=torch.int64)
    # The same seed moves both coordinates alike; pixels that look outside come back as 0.
    rows, columns = (
        distortion.moved(ramp[None, None], labels, generator(seed))[0][0, 0] for ramp in ramps
    )
    inside = (rows > 1.5) & (rows < 103.5) & (columns > 1.5) & (columns < 119.5)
    known = inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:]
    down, right = (
        torch.stack([torch.diff(part, dim=axis)[:103, :119] for part in (rows, columns)])
        for axis in (0, 1)
    )
    area = down[0] * right[1] - down[1] * right[0]
    assert (area[known] > 0).all()


def test_without_strength_nothing_changes():
    x, labels = patchwork(0)
    same, there = Distortion(**NONE)(x, labels, generator(0))
    torch.testing.assert_close(same, x, atol=1e-5, rtol=0)
    assert torch.equal(there, labels)


def test_flip_mirrors_left_and_right():
    x, labels = patchwork(1)
    mirrored, there = Distortion(**(NONE | {"flip": 1}))(x, labels, generator(0))
    torch.testing.assert_close(mirrored, x.flip(2), atol=1e-4, rtol=0)
    assert torch.equal(there, labels.flip(1))


@pytest.mark.parametrize("name", NONE)
def test_every_strength_acts_and_is_drawn_image_by_image(name):
    x, labels = patchwork(2, (1, 64, 80))
    x, labels = x.expand(8, -1, -1, -1), labels.expand(8, -1, -1)
    distorted, _ = Distortion(**(NONE | {name: getattr(Distortion(), name)}))(
        x, labels, generator(3)
    )
    assert not torch.allclose(distorted, x, atol=1e-3)
    assert not torch.allclose(distorted, distorted[:1].expand(8, -1, -1, -1), atol=1e-3)


IMAGES, SIDE = 24, 65


def taken(**strengths):
    """Where each pixel and where it was taken from, in pixels from the middle; (images, 2, SIDE, SIDE), inside."""
    here = torch.stack(torch.meshgrid(*[torch.arange(1.0, SIDE + 1)] * 2, indexing="ij"))
    labels = torch.ones(IMAGES, SIDE, SIDE, dtype=torch.int64)
    distortion = Distortion(**(NONE | strengths))
    # The same seed moves both coordinates alike; pixels that look outside come back as 0.
    ramps = (ramp.expand(IMAGES, 1, SIDE, SIDE) for ramp in here)
    there = torch.cat([distortion.moved(ramp, labels, generator(1))[0] for ramp in ramps], 1)
    inside = ((there > 1.5) & (there < SIDE - 0.5)).all(1)
    middle = (SIDE + 1) / 2
    return here - middle, there - middle, inside


def linear(**strengths):
    """Of each image the linear map to where it was taken from."""
    here, there, inside = taken(**strengths)
    for own, known in zip(there, inside, strict=True):
        before, after = (each[:, known].double() for each in (here, own))
        matrix = torch.linalg.lstsq(before.T, after.T).solution.T
        torch.testing.assert_close(matrix @ before, after, atol=1e-3, rtol=0)
        yield matrix


def shown(name, least=0.3):
    """A smooth image, and what a strength of intensity makes of it."""
    x = torch.linspace(least, 1, SIDE).expand(IMAGES, 1, SIDE, SIDE)
    strength = {name: getattr(Distortion(), name)}
    return x, Distortion(**(NONE | strength)).rescaled(x, generator(1))


def displacements():
    here, there, inside = taken(displacement=Distortion().displacement)
    return [float((own - here)[:, known].abs().max()) for own, known in zip(there, inside, strict=True)]  # fmt: skip


def angles():
    """In degrees; a rotation and nothing else."""
    for matrix in linear(rotation=Distortion().rotation):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(2).double(), atol=1e-4, rtol=0)
        yield abs(float(torch.rad2deg(torch.atan2(matrix[1, 0], matrix[0, 0]))))


def scales():
    for matrix in linear(scale=Distortion().scale):
        size = matrix.diagonal().mean()
        torch.testing.assert_close(matrix, size * torch.eye(2).double(), atol=1e-4, rtol=0)
        yield abs(float(size.log()))


def gammas():
    x, bent = shown("gamma")
    exponents = bent.log()[..., :-1] / x.log()[..., :-1]  # the last is 1, and stays so
    torch.testing.assert_close(exponents, exponents[..., :1].expand_as(exponents))
    return exponents[:, 0, 0, 0].log().abs().tolist()


def contrasts():
    x, stretched = shown("contrast")
    factors = (stretched - x.mean())[..., 0] / (x - x.mean())[..., 0]
    torch.testing.assert_close(stretched, x.mean() + factors[..., None] * (x - x.mean()))
    return (factors[:, 0, 0] - 1).abs().tolist()


def biases():
    x, shaded = shown("bias")
    return (shaded / x - 1).abs().amax((1, 2, 3)).tolist()


def noises():
    x, noise = shown("noise", 1.0)  # so bright that Rician noise is nearly normal
    return (noise - x).std((1, 2, 3)).tolist()


STRENGTHS = {
    "displacement": displacements,
    "rotation": angles,
    "scale": scales,
    "gamma": gammas,
    "contrast": contrasts,
    "bias": biases,
    "noise": noises,
}


@pytest.mark.parametrize("name", STRENGTHS)
def test_an_image_draws_its_own_strength_up_to_the_largest(name):
    """In the unit that is documented: pixels, degrees, fractions (of a factor its logarithm), units of x."""
    found, most = [*STRENGTHS[name]()], getattr(Distortion(), name)
    assert STRENGTHS.keys() == NONE.keys() - {"flip"}
    assert len(found) == IMAGES and 0.8 * most < max(found) < 1.02 * most
    if name != "displacement":  # which goes as far somewhere in every image
        assert min(found) < 0.5 * most


def test_flip_is_a_probability():
    x = torch.ones(400, 1, 9, 9)
    x[:, :, :4] = 2
    moved, _ = Distortion(**(NONE | {"flip": 0.25})).moved(x, x[:, 0].long(), generator(0))
    assert 0.2 < float((moved[:, 0, 0, 0] < 1.5).float().mean()) < 0.3


def test_the_generator_alone_decides():
    x, labels = patchwork(4)
    one, again, other = (Distortion()(x, labels, generator(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0, 1))
def test_bias_reaches_its_strength_and_no_further(seed, strength):
    flat = torch.ones(2, 1, 40, 56)
    swing = (biased(flat, torch.tensor(strength), generator(seed)) - 1).abs().amax((1, 2, 3))
    torch.testing.assert_close(swing, torch.full((2,), strength), atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(0.01, 1), st.floats(0, 0.3))
def test_noise_is_rician(seed, signal, level):
    noise = noisy(torch.full((1, 1, 200, 200), signal), torch.tensor(level), generator(seed))
    # E[m^2] = signal^2 + 2 level^2 for a Rician magnitude m; five standard errors of tolerance.
    spread = (4 * signal**2 * level**2 + 4 * level**4) ** 0.5
    assert abs(noise.square().mean() - signal**2 - 2 * level**2) <= 5 * spread / 200 + 1e-5


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ({"noise": -0.1}, "noise"),
        ({"rotation": float("nan")}, "rotation"),
        ({"bias": 1.5}, "bias is a fraction"),
        ({"flip": 2}, "flip is a fraction"),
        ({"displacement": 4}, "spacing must be at least"),
        ({"spacing": 0, "displacement": 0}, "spacing must be at least"),
    ],
)
def test_impossible_strengths_are_refused(strengths, message):
    with pytest.raises(ValueError, match=message):
        Distortion(**strengths)
