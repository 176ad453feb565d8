"""Laws of the heads: each strength acts, and without any a head is the atlas, as it is or mirrored."""

from dataclasses import fields

import numpy as np
import pytest

from keelnet.data.brain import load_icbm152
from keelnet.data.subjects import Heads

ATLAS = load_icbm152(4)
STILL = {"rotation": 0.0, "scale": 0.0, "displacement": 0.0}


def drawn(**strengths):
    """The draws of a generator do not depend on the strengths: two heads of one seed differ by these alone."""
    return Heads(**STILL | strengths).drawn(ATLAS, np.random.default_rng(1))


def test_every_strength_is_tried():
    assert {field.name for field in fields(Heads)} - {"spacing"} == STILL.keys()


def test_without_strength_a_head_is_the_atlas_or_its_mirror_image():
    sides = {
        side
        for seed in range(4)
        for side in (1, -1)
        if np.allclose(
            Heads(**STILL).drawn(ATLAS, np.random.default_rng(seed)).wm, ATLAS.wm[::side], atol=1e-3
        )
    }
    assert sides == {1, -1}


@pytest.mark.parametrize("name", STILL)
def test_each_strength_alone_makes_another_head(name):
    head, still = drawn(**{name: getattr(Heads(), name)}), drawn()
    for part in ("mask", "wm", "t1"):
        there, here = (getattr(each, part).astype(float) for each in (head, still))
        assert np.abs(there - here).max() > 0.2
