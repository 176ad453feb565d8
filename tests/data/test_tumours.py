"""Laws of the synthetic tumours: deterministic, inside the brain, and not solved by intensity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from keelnet.data.brain import load_icbm152
from keelnet.data.cases import find_cases
from keelnet.data.contrast import Contrast
from keelnet.data.conventions import EDEMA, ENHANCING, NECROSIS, REGIONS
from keelnet.data.growth import Growth
from keelnet.data.rating import Rater
from keelnet.data.scans import read_scans, settle
from keelnet.data.synthetic import Synthesis
from keelnet.data.tumours import Lesions, Tumours
from keelnet.experiments.synthesis import synthesise

HARD = [Synthesis(seed=3, resolution=4).case(number) for number in range(6)]


def test_a_case_is_the_same_every_time_and_another_for_another_number():
    again = Synthesis(seed=3, resolution=4).case(2)
    np.testing.assert_array_equal(again.x, HARD[2].x)
    np.testing.assert_array_equal(again.lesions.classes, HARD[2].lesions.classes)
    assert not np.array_equal(HARD[0].x, HARD[1].x)
    assert not np.array_equal(Synthesis(seed=4, resolution=4).case(2).x, HARD[2].x)


def test_lesions_lie_in_the_brain_and_look_alikes_away_from_the_tumour():
    exact = Synthesis(seed=3, resolution=4, rater=Rater(deviation=0))
    for case in [exact.case(number) for number in range(6)]:
        brain = case.x[0] > 0
        for modality in case.x:
            assert np.array_equal(modality > 0, brain) and np.isfinite(modality).all()
        classes, mimics = case.lesions.classes, case.lesions.mimics
        assert {NECROSIS, EDEMA, ENHANCING} <= set(np.unique(classes))
        assert not (classes[~brain].any() or mimics[~brain].any())
        away = ndimage.distance_transform_edt(classes == 0) * 4
        assert mimics.any() and away[mimics > 0].min() > 4


def test_look_alikes_have_the_signal_of_tumour():
    """Else a threshold would tell them apart, and the task would need no context."""
    apart = []
    for case in HARD:
        for label in (NECROSIS, EDEMA, ENHANCING):
            own, other = (part == label for part in (case.lesions.classes, case.lesions.mimics))
            inner = [ndimage.binary_erosion(mask) for mask in (own, other)]
            if all(mask.sum() > 5 for mask in inner):
                means = [case.x[:, mask].mean(1) for mask in inner]
                apart.append(means[1] / means[0] - 1)
    assert len(apart) >= 8 and (np.abs(np.median(apart, 0)) < 0.1).all()


@pytest.mark.parametrize("seed", range(3))
def test_but_for_alike_a_look_alike_is_what_tumour_would_be_in_its_place(seed):
    """In every modality, class by class: the draws of a scan do not depend on which is which."""
    head, contrast = load_icbm152(4), Contrast(noise=(0.0, 0.0), gamma=0.0)
    lesions = Tumours().drawn(head, np.random.default_rng(seed))
    mimics = lesions.mimics
    classes = np.where(mimics > 0, mimics, lesions.classes)
    tumours = Lesions(classes, np.zeros_like(mimics))
    x, same = (contrast.drawn(head, each, np.random.default_rng(seed)) for each in (lesions, tumours))  # fmt: skip
    for label in (NECROSIS, EDEMA, ENHANCING):
        apart = np.abs(x[:, mimics == label] / same[:, mimics == label] - 1).max(1)
        assert (apart < contrast.alike + 1e-5).all() and (apart > 0.9 * contrast.alike).all()
    np.testing.assert_array_equal(x[:, mimics == 0], same[:, mimics == 0])


def test_easy_tumours_have_no_look_alikes_and_some_do_not_enhance():
    easy = [Synthesis(1, 4, tumours=Tumours(easy=True)).case(number) for number in range(20)]
    assert not any(case.lesions.mimics.any() for case in easy)
    kinds = [set(np.unique(case.lesions.classes)) for case in easy]
    assert any(ENHANCING not in kind for kind in kinds)
    assert any(ENHANCING in kind for kind in kinds)


@pytest.mark.parametrize("foci", [1, 2])
def test_a_tumour_has_one_core_or_two(foci):
    head = load_icbm152(4)
    tumours = Tumours(easy=True, core_ml=6, two=foci - 1.0)  # small: large ones may touch
    places, volumes = [], []
    for seed in range(4):
        classes = tumours.drawn(head, np.random.default_rng(seed)).classes
        core = (classes == ENHANCING) | (classes == NECROSIS)
        assert ndimage.label(core, np.ones((3, 3, 3)))[1] == foci
        places.append(np.argwhere(core).mean(0) * head.voxel_size)
        volumes.append(core.sum() * head.voxel_size**3 / 1000)
    away = np.linalg.norm(np.subtract.outer(places, places).diagonal(axis1=1, axis2=3), axis=-1)
    assert away[~np.eye(4, dtype=bool)].min() > 5  # no two of them lie at one place, mm
    assert max(volumes) > 1.5 * min(volumes)


def test_volumes_are_near_those_of_real_sets():
    """Medians of published sets: necrosis 12, edema 54, enhancing 15 ml; 4 mm voxels are coarse."""
    cases = [Synthesis(5, 4).case(number).lesions.classes for number in range(16)]
    for label, wanted in ((NECROSIS, 12), (EDEMA, 54), (ENHANCING, 15)):
        median = np.median([(classes == label).sum() * 0.064 for classes in cases])
        assert wanted / 2.5 < median < wanted * 2.5
    assert set(REGIONS) == {"WT", "TC", "ET"}


def test_growth_keeps_cells_between_0_and_1_out_of_csf_and_faster_in_white_matter():
    gm, wm = np.zeros((30, 9, 9), np.float32), np.zeros((30, 9, 9), np.float32)
    wm[:15], gm[15:28] = 1, 1
    seed = np.zeros_like(wm)
    seed[15, 4, 4] = seed[14, 4, 4] = 1
    cells = Growth(0.2, 0.03).grown(gm, wm, seed, 2.0, target_ml=1e9, days=300)
    assert cells.min() >= 0 and cells.max() <= 1 + 1e-6
    assert not cells[28:].any()
    front = cells[:, 4, 4] > 0.3
    assert front[:15].sum() > front[15:].sum()
    # Without reaction nothing is made or lost.
    still = Growth(0.2, 0.0).grown(gm, wm, seed, 2.0, target_ml=1e9, days=300)
    assert still.sum() == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize("ml", [2.0, 6.0, 20.0])
@pytest.mark.parametrize(("white", "rate"), [(0.25, 0.05), (0.15, 0.06)])
@pytest.mark.parametrize("voxel", [2.0, 4.0])
def test_growth_stops_at_the_volume_that_was_asked(voxel, white, rate, ml):
    """Beyond it goes what a front, which is never faster than 2 √(D ρ), gains between two looks, 20 days apart."""
    side = round(88 / voxel)
    wm = np.ones((side,) * 3, np.float32)
    squared = ((np.indices(wm.shape) - side // 2) ** 2).sum(0)
    seed = np.exp(-squared * voxel**2 / 18).astype(np.float32)
    cells = Growth(white, rate).grown(0 * wm, wm, seed, voxel, ml)
    found = (cells > 0.6).sum() * voxel**3 / 1000
    farther = np.diff([(3000 * each / (4 * np.pi)) ** (1 / 3) for each in (ml, found)])  # mm
    assert 0 <= farther < 20 * 2 * np.sqrt(white * rate)


def test_the_atlas_has_one_brain_at_2_and_at_4_mm():
    fine, coarse = load_icbm152(2), load_icbm152(4)
    assert coarse.voxel_size == pytest.approx(4)
    assert coarse.mask.sum() * 8 == pytest.approx(fine.mask.sum(), rel=0.03)
    centres = []
    for atlas in (fine, coarse):
        place = np.argwhere(atlas.wm > 0.5).mean(0)
        centres.append(atlas.affine[:3, :3] @ place + atlas.affine[:3, 3])
    np.testing.assert_allclose(*centres, atol=1)
    with pytest.raises(ValueError, match="1, 2 or 4"):
        load_icbm152(3)


@pytest.mark.parametrize("layout", ["brats2021", "brats2023", "msd"])
def test_what_is_written_is_read_again(layout, tmp_path):
    out = tmp_path / layout
    assert len(list(synthesise(out, 2, seed=3, layout=layout, resolution=4))) == 2
    found = settle(find_cases([out]))
    assert found.convention.name == layout
    for scan, case in zip(read_scans(found), HARD[:2], strict=True):
        np.testing.assert_array_equal(scan.classes, case.lesions.classes)
        np.testing.assert_allclose(scan.x, case.x, atol=0.5)
    assert (out / "contact_sheet.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="not an empty folder"):
        list(synthesise(out, 1))
