"""Laws of prepared volumes and patches: shared files, balanced centres, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scans import NEW, SHAPE, classes, volumes, write_case

from keelnet.data.cases import find_cases
from keelnet.data.conventions import convention_named
from keelnet.data.patches import Patches
from keelnet.data.prepared import PLACES, Prepared, _places, brain_box, normalised
from keelnet.data.samples import Share
from keelnet.data.scans import read_scans, settle


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate("ab"):
        write_case(folder, name, seed=seed)
    made = Prepared(folder / "prepared")
    for scan in read_scans(settle(find_cases([folder]))):
        made.add(scan)
    return made


def test_volumes_are_normalised_and_mapped(prepared):
    volume = prepared.volume("a")
    assert isinstance(volume.x, np.memmap) and volume.x.dtype == np.float16
    assert volume.space == SHAPE
    assert volume.spacing == (2, 2, 2)
    np.testing.assert_array_equal(volume.classes, classes())
    assert prepared.has("a") and not prepared.has("c")
    for modality, raw in zip(volume.x, volumes(0), strict=True):
        brain = raw != 0
        assert not modality[~brain].any()
        assert abs(float(modality[brain].astype(float).mean())) < 0.01
        assert float(modality[brain].astype(float).std()) == pytest.approx(1, abs=0.02)
    labels = volume.classes[tuple(volume.places[:, :3].T.astype(int))]
    np.testing.assert_array_equal(labels, volume.places[:, 3])
    assert set(labels) == {1, 2, 3}


@pytest.mark.parametrize("side", [12, 15, 16, 20, 40])
def test_places_are_taken_from_all_of_a_lesion(side):
    """1728 to 64000 voxels: to the last along the axis that counts slowest."""
    lesion = np.ones((side,) * 3, np.uint8)
    places = _places(lesion)
    assert len({*map(tuple, places)}) == len(places) == min(PLACES, side**3)
    assert places[:, :3].min() == 0 and places[:, :3].max() == side - 1
    np.testing.assert_allclose(places[:, :3].mean(0), (side - 1) / 2, rtol=0.05)


def test_the_scale_of_a_scanner_does_not_matter():
    x = volumes(3)
    for factor in (1e-3, 7.0, 1e4):
        np.testing.assert_allclose(normalised(factor * x), normalised(x), atol=1e-4)
    outlier = x.copy()
    outlier[0, 4, 4, 4] = 1e7
    np.testing.assert_allclose(np.median(normalised(outlier)[0]), np.median(normalised(x)[0]), atol=0.2)  # fmt: skip


def test_the_box_holds_the_brain_and_a_margin():
    x = np.zeros((4, 20, 20, 20), np.float32)
    x[2, 5:9, 1:19, 10] = 3
    box = brain_box(x)
    assert box == (slice(3, 11), slice(0, 20), slice(8, 13))


def mapped_bytes() -> int:
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("RssFile")]  # fmt: skip
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is mapped")
def test_memory_does_not_grow_with_the_cases_that_were_seen(tmp_path):
    big = Prepared(tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 96, 96, 96)).astype(np.float16)
    for name, values in (("x", x), ("classes", np.ones(x.shape[1:], np.uint8)), ("places", np.zeros((0, 4), np.int16))):  # fmt: skip
        np.save(tmp_path / f"c.{name}.npy", values)
    (tmp_path / "c.json").write_text('{"spacing": [1, 1, 1]}')
    volume = big.volume("c")
    patches = Patches([volume], (96, 96, 96), 2, varied=False)
    list(patches.batches(1, torch.Generator()))  # code of libraries is mapped too
    before = mapped_bytes()
    assert np.array_equal(volume.x, x)
    assert mapped_bytes() - before > 6_000_000
    volume.let_go()
    assert mapped_bytes() - before < 1_000_000
    list(patches.batches(1, torch.Generator()))
    assert mapped_bytes() - before < 1_000_000
    assert np.array_equal(volume.x, x)


def all_of(patches, seed):
    generator = torch.Generator().manual_seed(seed)
    return list(patches.batches(4, generator))


def test_an_epoch_is_the_same_for_the_same_seed_and_has_its_count(prepared):
    patches = Patches(prepared.volumes(["a", "b"]), (4, 6, 8), 10)
    first, again, other = all_of(patches, 0), all_of(patches, 0), all_of(patches, 1)
    assert [len(x) for x, _ in first] == [4, 4, 2]
    for (x, labels), (y, others) in zip(first, again, strict=True):
        assert torch.equal(x, y) and torch.equal(labels, others)
        assert x.shape[1:] == (4, 4, 6, 8) and labels.shape[1:] == (4, 6, 8)
        assert x.dtype == torch.float32 and labels.dtype == torch.int64
    assert not torch.equal(first[0][0], other[0][0])


def test_batches_lie_channels_last(prepared):
    patches = Patches(prepared.volumes(["a", "b"]), (4, 6, 8), 3)
    for x, _ in patches.batches(2, torch.Generator()):
        assert x.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_shares_are_parts_of_the_same_batches(prepared, batch_size, size):
    patches = Patches(prepared.volumes(["a", "b"]), (4, 6, 8), 5)

    def batches(share):
        return list(patches.batches(batch_size, torch.Generator().manual_seed(0), share))

    whole = batches(Share())
    for rank in range(size):
        share = Share(rank, size)
        for (x, labels), (own, named) in zip(whole, batches(share), strict=True):
            taken = list(share.of(len(x)))
            assert torch.equal(own, x[taken]) and torch.equal(named, labels[taken])


def test_patches_hold_what_the_volume_holds(prepared):
    volume = prepared.volume("a")
    patches = Patches([volume], (12, 12, 12), 1, varied=False)
    ((x, labels),) = all_of(patches, 0)
    assert torch.count_nonzero(x) == np.count_nonzero(volume.x)
    assert torch.bincount(labels.flatten(), minlength=4)[1:].tolist() == [
        int((volume.classes == label).sum()) for label in (1, 2, 3)
    ]


def test_a_share_of_the_patches_is_centred_on_tumour(prepared):
    volumes_ = prepared.volumes(["a", "b"])

    def hits(lesion):
        patches = Patches(volumes_, (1, 1, 1), 200, lesion, varied=False)
        return sum(int((labels > 0).sum()) for _, labels in all_of(patches, 0)) / 200

    assert hits(1.0) == 1.0
    assert hits(0.0) < 0.3
    assert 0.5 < hits(0.6) < 0.8


def test_no_patch_is_centred_on_a_cavity(tmp_path):
    """Where a tumour was is no tumour: a case that has nothing else is cut anywhere."""
    write_case(tmp_path, "a", NEW, (1, 4, 3), "-")
    (scan,) = read_scans(settle(find_cases([tmp_path]), convention_named("brats2024")))
    made = Prepared(tmp_path / "prepared")
    made.add(scan)
    made.add(replace(scan, name="b", classes=np.where(scan.classes == 4, 4, 0).astype(np.uint8)))
    drawn = {}
    for name in "ab":
        patches = Patches(made.volumes([name]), (1, 1, 1), 100, 1.0, varied=False)
        drawn[name] = {int(label) for _, labels in all_of(patches, 0) for label in labels.flatten()}
    assert drawn == {"a": {1, 3}, "b": {0, 4}}


def test_variation_keeps_the_outside_at_zero_and_moves_labels_with_the_image(prepared):
    volume = prepared.volume("a")
    counts = [int((volume.classes == label).sum()) for label in (1, 2, 3)]
    for x, labels in all_of(Patches([volume], SHAPE, 12), 5):
        outside = np.count_nonzero(volume.x[0] == 0)
        for one, other in zip(x, labels, strict=True):
            assert int((one == 0).all(0).sum()) == outside
            assert torch.bincount(other.flatten(), minlength=4)[1:].tolist() == counts


def test_nothing_to_cut_from_is_refused(prepared):
    with pytest.raises(ValueError, match="at least one prepared volume"):
        Patches([], (2, 2, 2), 1)
    with pytest.raises(ValueError, match="at least 1"):
        Patches(prepared.volumes(["a"]), (0, 2, 2), 1)
