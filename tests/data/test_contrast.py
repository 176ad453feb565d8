"""Laws of the contrast: each strength acts where it says, in every modality, and nowhere outside the brain."""

import functools
from dataclasses import fields

import numpy as np
import pytest

from keelnet.data.brain import brain_maps, load_icbm152
from keelnet.data.contrast import SIGNALS, Contrast
from keelnet.data.conventions import EDEMA, ENHANCING, MODALITIES
from keelnet.data.tumours import Lesions

HEAD = load_icbm152(4)
STILL = {
    "jitter": 0.0,
    "bias": (0.0, 0.0),
    "noise": (0.0, 0.0),
    "gamma": 0.0,
    "texture": 0.0,
    "alike": 0.0,
    "blur": 0.0,
}
# The scanner's 1 mm is a quarter of these voxels, and moves next to nothing.
STRENGTHS = {name: getattr(Contrast(), name) for name in STILL} | {"blur": 4.0}


def boxes():
    """A tumour on one side of the head, and what looks like one on the other."""
    classes, mimics = (np.zeros(HEAD.mask.shape, np.uint8) for _ in range(2))
    middle = HEAD.mask.shape[1] // 2
    classes[10:18, middle : middle + 6, 20:28] = EDEMA
    mimics[30:38, middle : middle + 6, 20:28] = ENHANCING
    return Lesions(classes * HEAD.mask, mimics * HEAD.mask)


LESIONS = boxes()


def drawn(seed=1, **strengths):
    """The draws of a generator do not depend on the strengths: two scans of one seed differ by these alone."""
    return Contrast(**STILL | strengths).drawn(HEAD, LESIONS, np.random.default_rng(seed))


WITHOUT = drawn()
LESION = (LESIONS.classes > 0) | (LESIONS.mimics > 0)
WHERE = {
    "texture": LESION,
    "alike": LESIONS.mimics > 0,
}


def test_every_strength_is_tried():
    assert {field.name for field in fields(Contrast)} == STILL.keys()


@pytest.mark.parametrize("name", STILL)
def test_each_strength_alone_changes_every_modality_where_it_acts(name):
    x, where = drawn(**{name: STRENGTHS[name]}), WHERE.get(name, HEAD.mask)
    for modality, without in zip(x, WITHOUT, strict=True):
        np.testing.assert_array_equal(modality > 0, HEAD.mask)
        np.testing.assert_array_equal(modality[~where], without[~where])
        changed = np.abs(modality[where] / without[where] - 1)
        assert changed.max() > 0.01


@pytest.mark.parametrize("name", [name for name in STILL if name != "blur"])  # the scanner's
def test_each_scan_draws_its_own(name):
    where = WHERE.get(name, HEAD.mask & ~LESION)
    one, other = (
        (drawn(seed, **{name: STRENGTHS[name]}) / np.maximum(drawn(seed), 1))[:, where]
        for seed in (1, 2)
    )
    assert np.abs(one / other - 1).max() > 0.01


SEEDS = range(5)
PLAIN = functools.cache(drawn)


def drawn_beside(name):
    """Of several scans: with this strength alone, and without, (4, voxels) where it acts."""
    where = WHERE.get(name, HEAD.mask)
    for seed in SEEDS:
        yield drawn(seed, **{name: STRENGTHS[name]})[:, where], PLAIN(seed)[:, where]


# Between these lies what the strongest of several scans does where it does most.
BOUNDS = {
    "jitter": (0.8 * Contrast().jitter, Contrast().jitter),
    "bias": (Contrast().bias[0], Contrast().bias[1]),
    "texture": (1.8 * Contrast().texture, 2 * Contrast().texture),
    "alike": (0.9 * Contrast().alike, Contrast().alike),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_factor_goes_as_far_as_its_strength_and_no_farther(name):
    apart = [np.abs(x / without - 1).max() for x, without in drawn_beside(name)]
    least, most = BOUNDS[name]
    assert least < max(apart) < most + 1e-5


def test_texture_deviates_by_its_strength():
    deviations = [(x / without).std(1) for x, without in drawn_beside("texture")]
    assert np.mean(deviations) == pytest.approx(Contrast().texture, rel=0.2)


def test_gamma_is_the_logarithm_of_an_exponent():
    exponents = []
    for x, without in drawn_beside("gamma"):
        for one, other in zip(np.log(x), np.log(without), strict=True):
            slope, constant = np.polyfit(other, one, 1)
            np.testing.assert_allclose(slope * other + constant, one, atol=1e-3)
            exponents.append(abs(np.log(slope)))
    gamma = Contrast().gamma
    assert 0.8 * gamma < max(exponents) < gamma + 1e-3


def test_noise_deviates_by_its_strength_of_the_signal_of_white_matter():
    deviations = []
    bright = (HEAD.wm + HEAD.gm > 0.9) & ~LESION  # where Rician noise is nearly normal
    for seed in SEEDS:
        without = PLAIN(seed)
        noise = drawn(seed, noise=STRENGTHS["noise"]) - without
        for name, own, signal in zip(MODALITIES, noise, without, strict=True):
            means = sum(SIGNALS[name][tissue] * getattr(HEAD, tissue) for tissue in ("csf", "gm", "wm"))  # fmt: skip
            white = np.median((signal / np.maximum(means, 0.1))[bright])
            deviations.append((own[bright] / white).std())
    least, most = Contrast().noise
    assert 0.98 * least < min(deviations) < 1.2 * least
    assert 0.8 * most < max(deviations) < 1.02 * most


@pytest.mark.parametrize("voxel", [2.0, 4.0])
def test_blur_is_in_millimetres(voxel):
    """An edge between tissues becomes the integral of a normal density of this deviation."""
    side = 40
    white = np.zeros((side, 6, 6), np.float32)
    white[side // 2 :] = 1
    head = brain_maps(np.ones_like(white), 1 - white, white, np.diag([voxel, voxel, voxel, 1.0]))
    none = np.zeros(white.shape, np.uint8)
    for blur in (3.0, 5.0):
        contrast = Contrast(**STILL | {"blur": blur})
        for modality in contrast.drawn(head, Lesions(none, none), np.random.default_rng(0)):
            density = np.diff(modality[:, 3, 3].astype(float))
            density /= density.sum()
            places = voxel * np.arange(side - 1)
            mean = density @ places
            assert np.sqrt(density @ (places - mean) ** 2) == pytest.approx(blur, rel=0.03)
