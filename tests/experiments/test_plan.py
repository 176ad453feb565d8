"""Plans: what is measured on parts of a batch is taken at the whole, with processes that are made up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelnet.experiments import plan as plans
from keelnet.experiments.parts import (
    brain_of,
    case_bytes,
    largest_part,
    smallest_part,
    tile_of,
    voxels_of,
)
from keelnet.experiments.plan import MARGIN, plan
from keelnet.experiments.recipes import RECIPES, recipe_named
from keelnet.experiments.rehearsal import Measured
from keelnet.experiments.spaces import tiling_of, unit_of

MB = 10**6
TUMOUR = recipe_named("tumour")


class Machine:
    """Rehearsals of a machine on which memory and time are affine in the share of a batch."""

    def __init__(self, trained=200 * MB, judged=0, finished=0, kept=80 * MB):
        self.trained, self.judged, self.finished, self.kept = trained, judged, finished, kept
        self.seen = []

    def __call__(self, rehearsal):
        self.seen.append(rehearsal)
        share = rehearsal.share
        peaks = [500 * MB + round(share * each) for each in (self.trained, self.judged)]
        kept, batch = round(share * self.kept), round(share * 10 * MB)
        workers = 5 * MB + round(share * 2 * MB)
        return Measured(
            *peaks,
            500 * MB + self.finished,
            3 * MB,
            kept,
            batch,
            workers,
            220 * MB,
            1.0,
            0.1 + share,
        )


@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_follows_from_its_parts(name):
    machine, recipe = Machine(), recipe_named(name)
    planned = plan(recipe, rehearse=machine)
    extra = case_bytes(recipe) + 7 * MB
    assert planned.ledger.peak == pytest.approx(700 * MB + extra, abs=10)
    assert planned.seconds == pytest.approx(1.1)
    assert planned.ledger.activations == pytest.approx(80 * MB, abs=10)
    assert planned.ledger.data == pytest.approx(10 * MB + extra, abs=10)
    assert planned.apart == 220 * MB + extra
    weights = planned.ledger.parameters
    assert planned.ledger.gradients == weights and planned.ledger.optimiser == 3 * MB
    assert planned.rehearsed[-1] == 1  # a default batch is small enough to be rehearsed whole


@given(st.sampled_from([48, 64, 96, 128, 192]), st.integers(1, 4), st.integers(1, 150))
def test_however_large_the_patch_a_bounded_part_is_rehearsed(side, batch, kept):
    recipe, machine = replace(TUMOUR, patch=(side,), batch=batch), Machine(kept=kept * MB)
    planned = plan(recipe, rehearse=machine)
    extra = case_bytes(recipe) + 7 * MB
    assert planned.ledger.peak - extra == pytest.approx(700 * MB, abs=1000)
    assert planned.seconds == pytest.approx(1.1)
    assert planned.ledger.activations == pytest.approx(kept * MB, abs=1000)
    assert planned.ledger.data - extra == pytest.approx(10 * MB, abs=1000)
    assert planned.apart - extra == pytest.approx(220 * MB, abs=1000)
    small, large = machine.seen
    assert small.share < large.share <= 1
    slab = batch * large.patch[0] * large.patch[1]
    assert slab * large.patch[2] <= max(plans.VOXELS, slab * unit_of(recipe))


@given(st.integers(1, 100_000))
def test_however_much_is_kept_a_bounded_part_is_rehearsed(kept):
    machine = Machine(trained=(kept + 10) * MB, kept=kept * MB)
    plan(TUMOUR, rehearse=machine)
    least = unit_of(TUMOUR) / TUMOUR.patch[0]
    assert machine.seen[-1].share * kept * MB <= max(plans.KEPT, least * kept * MB)


@pytest.mark.parametrize("peak", ["trained", "judged", "finished"])
def test_the_peak_is_that_of_the_largest_phase(peak):
    planned = plan(recipe_named("digits"), rehearse=Machine(**{peak: 900 * MB}))
    assert planned.ledger.peak == pytest.approx(1407 * MB, abs=10)


def test_of_another_patch_the_process_is_known():
    first = plan(TUMOUR, rehearse=Machine())
    machine = Machine(trained=8 * 200 * MB)
    other = plan(replace(TUMOUR, patch=(128,)), known=first, rehearse=machine)
    (seen,) = machine.seen
    share = seen.share
    assert share < 1
    # Through one point goes no line: of it all is taken in proportion, but for the processes beside.
    assert other.seconds == pytest.approx((0.1 + share) / share)
    assert other.ledger.activations == pytest.approx(80 * MB, abs=1000)
    beside = case_bytes(TUMOUR) + 5 * MB + share * 2 * MB
    assert other.ledger.data - beside == pytest.approx(10 * MB, abs=1000)
    assert other.apart - beside == pytest.approx(220 * MB, abs=1000)
    assert other.ledger.process == pytest.approx(first.ledger.process, rel=1e-3)
    assert other.ledger.peak == pytest.approx(2100 * MB + case_bytes(TUMOUR) + 7 * MB, rel=1e-3)


@given(st.integers(1, 3), st.integers(0, 2), st.floats(0.001, 3), st.tuples(*[st.integers(1, 20)] * 3))  # fmt: skip
def test_parts_are_what_the_network_can_halve(levels, folds, share, sides):
    recipe = replace(TUMOUR, width=(8, 16, 32)[:levels], depth=(1,) * levels, folds=folds)
    unit = unit_of(recipe)
    recipe = replace(recipe, patch=tuple(unit * side for side in sides))
    small, large = smallest_part(recipe), largest_part(recipe, share)
    for part in (small, large):
        assert 0 < part.share <= 1
        assert not any(side % unit for side in (*part.patch, *part.tile))
        assert math.prod(part.patch) == pytest.approx(part.share * math.prod(recipe.patch))
        assert all(a <= b for a, b in zip(part.patch, recipe.patch, strict=True))
    assert large.share <= max(share, unit / recipe.patch[2]) or large.share == 1
    if share >= 1:
        assert large.patch == recipe.patch and large.tile == tile_of(recipe)


@given(st.integers(1, 200), st.floats(0.001, 3))
def test_parts_of_a_batch_are_whole_samples(batch, share):
    recipe = replace(recipe_named("digits"), batch=batch)
    for part in (smallest_part(recipe), largest_part(recipe, share)):
        assert 1 <= part.batch <= batch and part.share == part.batch / batch
        assert part.patch is None and part.tile is None
    assert voxels_of(recipe) == case_bytes(recipe) == 0


def test_a_plan_fits_with_a_margin():
    planned = plan(recipe_named("digits"), rehearse=Machine())
    assert planned.wanted == math.ceil((1 + MARGIN) * planned.ledger.peak)
    assert planned.fits(planned.wanted) and not planned.fits(planned.wanted - 1)
    table = planned.as_table()
    assert sum(table["bytes"].values()) == table["peak_bytes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": (30,)}, "divisible by 8, got \\(30, 30, 30\\)"),
        ({"patch": (8, 8)}, "one side or three"),
        ({"device": "cuda"}, "planned for device cpu, got 'cuda'"),
        ({"folder": "nowhere"}, "folder nowhere does not exist"),
        ({"width": (7, 8, 16)}, "even"),
        ({"spacing": -2.0}, "between 0.1 and 20 mm, got -2.0"),
        ({"spacing": 1e-6}, "between 0.1 and 20 mm, got 1e-06"),
        ({"spacing": 1e-320}, "between 0.1 and 20 mm"),
        ({"spacing": math.nan}, "between 0.1 and 20 mm, got nan"),
        ({"architecture": "hamiltonian", "folds": 0}, "segmenter"),
        ({"patches": 0}, "patches must be at least 1, got 0"),
        ({"judged": 0}, "judged must be at least 1, got 0"),
        ({"withheld": 1.0}, "withheld must lie between 0 and 1, got 1.0"),
        ({"lesion": 67.0}, "lesion is a share"),
        ({"workers": 65}, "workers must lie between 0 and 64, got 65"),
        ({"labels": "msd"}, "set folder to yours"),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_any_process(changes, message):
    machine = Machine()
    with pytest.raises(ValueError, match=message):
        plan(replace(TUMOUR, **changes), rehearse=machine)
    assert not machine.seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 4}, "depth must be divisible by 8 to be trained in 4 levels, got 20"),
        ({"batch": 0}, "batch=1 or more, got 0"),
        ({"batch": -5}, "batch=1 or more, got -5"),
    ],
)
def test_so_are_those_without_scans(changes, message):
    machine = Machine()
    with pytest.raises(ValueError, match=message):
        plan(replace(recipe_named("digits"), **changes), rehearse=machine)
    assert not machine.seen


@pytest.mark.parametrize("side", [8, 16, 24])
def test_what_validation_shows_is_rehearsed_however_small_the_patch(side):
    machine = Machine()
    planned = plan(replace(TUMOUR, patch=(side,)), rehearse=machine)
    assert machine.seen[-1].tile == tile_of(TUMOUR) and planned.rehearsed[-1] == 1


def test_of_a_batch_of_one_nothing_is_counted_twice():
    machine = Machine()
    planned = plan(replace(recipe_named("tissue"), batch=1), rehearse=machine)
    assert len(machine.seen) == 1
    assert planned.ledger.peak == pytest.approx(700 * MB + 7 * MB, abs=10)
    # At most what is surely none of the batch: the process itself takes 500 MB.
    assert 490 * MB < planned.ledger.process <= 700 * MB - 80 * MB - 10 * MB


@pytest.mark.parametrize("method", ["varpro", "block_descent"])
def test_a_classifier_is_fitted_to_whole_batches_only(method):
    machine = Machine(kept=10**6 * MB)
    recipe = replace(recipe_named("peaks"), method=method, batch=16, classifier_tikhonov=1e-3)
    known = plan(recipe, rehearse=machine)
    plan(replace(recipe, width=8), known=known, rehearse=machine)
    assert [each.batch for each in machine.seen] == [16, 16]


@given(
    st.sampled_from([1.0, 1.1, 1.2, 1.25, 1.3, 1.5, 2.0, 4.0]),
    st.tuples(*(st.floats(0.5, 1.0) for _ in range(3))),
)
def test_no_smaller_brain_is_shown_in_a_larger_piece(spacing, shares):
    recipe = replace(TUMOUR, spacing=spacing)
    whole = brain_of(recipe)
    sides = tuple(max(1, int(share * length)) for share, length in zip(shares, whole, strict=True))
    shown = tiling_of(recipe).fitted(sides).side
    assert all(own <= planned for own, planned in zip(shown, tile_of(recipe), strict=True))
