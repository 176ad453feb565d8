"""Laws of tiles: every voxel is labelled once, and as the whole volume would be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import keelnet as kn
from keelnet.experiments.resident import STATUS, status_of
from keelnet.experiments.tiles import Tiling, labelled, logits_of
from keelnet.learning.regions import classes_of

SPACES = st.tuples(*[st.integers(1, 70)] * 3)


@given(space=SPACES, side=st.sampled_from([24, 32, 40]), margin=st.sampled_from([0, 3, 8]))
@settings(max_examples=60, deadline=None)
def test_between_tiles_each_labels_only_what_it_sees_the_margin_around(space, side, margin):
    tiles = Tiling((side,) * 3, margin, 8).fitted(space)
    assert all(own <= side and own % 8 == 0 for own in tiles.side)
    for target, inside in tiles.places(space):
        for whole, own, length, limit in zip(target, inside, space, tiles.side, strict=True):
            assert whole.start == 0 or own.start >= margin
            assert whole.stop == length or own.stop <= limit - margin


@given(space=SPACES, margin=st.sampled_from([0, 3, 8]))
@settings(max_examples=60, deadline=None)
def test_every_voxel_is_labelled_once_from_its_own_place(space, margin):
    tiles = Tiling((24, 32, 24), margin, 8).fitted(space)
    x = np.arange(1, 1 + np.prod(space), dtype=np.float64).reshape(1, *space)
    seen, found = np.zeros(space, int), np.zeros(space)
    for target, inside in tiles.places(space):
        seen[target] += 1
        found[target] = tiles.cut(x.astype(np.float32), target, inside)[0][inside]
    assert (seen == 1).all()
    np.testing.assert_array_equal(found, x[0].astype(np.float32))


def volume(seed=0, space=(20, 17, 22)):
    x = np.random.default_rng(seed).standard_normal((4, *space)).astype(np.float32)
    x[:, :3] = 0
    return x


class Local(nn.Module):
    """Regions by thresholds: what tiles cannot change."""

    def forward(self, x):
        return torch.stack([x[:, 0], x[:, 0] + x[:, 1], x[:, 2] - 1], 1) - 1e-3


@pytest.mark.parametrize("mirrored", [False, True])
def test_tiles_label_as_the_whole_volume_would_be(mirrored):
    x = volume()
    whole = classes_of(Local()(torch.from_numpy(x)[None]))[0].numpy()
    for tiling in (Tiling((8, 8, 8), 1), Tiling((64, 64, 64), 8), Tiling((16, 8, 24), 0)):
        np.testing.assert_array_equal(labelled(Local(), x, tiling, mirrored), whole)


def test_a_network_sees_past_its_tile_as_far_as_the_margin():
    network = kn.architectures.segmenter(4, 3, dim=3, width=(4,), depth=1, seed=1)
    network.classifier.linear.bias.data.fill_(0.01)
    x = volume(space=(40, 24, 32))
    whole = labelled(network, x, Tiling((64, 64, 64), 8))
    assert (labelled(network, x, Tiling((24, 24, 24), 8)) == whole).mean() > 0.999
    assert (labelled(network, x, Tiling((8, 8, 8), 0)) == whole).mean() < 0.999
    assert network.training


def test_mirror_images_are_averaged():
    class Right(nn.Module):
        def forward(self, x):
            ramp = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1, 1)
            return ramp.expand(1, 3, *x.shape[2:]) + 0.01

    x = np.ones((4, 16, 16, 16), np.float32)
    plain = labelled(Right(), x, Tiling((16, 16, 16), 0))
    assert 0 < (plain > 0).mean() < 0.6
    assert (labelled(Right(), x, Tiling((16, 16, 16), 0), mirrored=True) > 0).all()


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux says what is mapped")
def test_memory_does_not_grow_with_the_tiles_of_a_mapped_volume_that_were_seen(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 96, 96, 96), np.float16))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    mapped = []

    class Watching(Local):
        def forward(self, x):
            mapped.append(status_of("RssFile"))
            return super().forward(x)

    # Code of libraries is mapped too.
    labelled(Watching(), volume().astype(np.float16), Tiling((64, 64, 64), 16))
    before = status_of("RssFile")
    mapped.clear()
    labelled(Watching(), x, Tiling((64, 64, 64), 16))
    assert len(mapped) == 8
    assert max(mapped) - before < 1_000_000
    np.array(x)  # all at once
    assert status_of("RssFile") - before > 6_000_000


def test_logits_in_half_of_the_bits_are_read():
    """As a network gives them that computes in bfloat16, which NumPy has not."""

    class Half(Local):
        def forward(self, x):
            return super().forward(x).bfloat16()

    x = volume()
    found = logits_of(Half(), x, Tiling((16, 8, 24), 0))
    wanted = Half()(torch.from_numpy(x)[None])[0].float().numpy()
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_a_tile_that_cannot_work_is_refused():
    with pytest.raises(ValueError, match="divisible by 8"):
        Tiling((20, 24, 24))
    with pytest.raises(ValueError, match="twice the margin"):
        Tiling((16, 24, 24), 8)
