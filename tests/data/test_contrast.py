"""Laws of the contrast: each strength acts where it says, in every modality, and nowhere outside the brain."""

from dataclasses import fields

import numpy as np
import pytest

from keelnet.data.brain import load_icbm152
from keelnet.data.contrast import Contrast
from keelnet.data.conventions import EDEMA, ENHANCING
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
