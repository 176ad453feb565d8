"""Fits: the largest patch and width are found with few rehearsals, on a machine whose law is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelnet.experiments.fits import advice, as_sentence, require_within, setting_of
from keelnet.experiments.parts import brain_of
from keelnet.experiments.plan import plan
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.rehearsal import Measured, UnrehearsedError
from keelnet.experiments.spaces import unit_of, widths_of

MB = 10**6
TUMOUR = replace(recipe_named("tumour"), width=(8, 16), depth=(1, 1))
DIGITS = recipe_named("digits")


def machine(bytes_a_value=12.0, process=400 * MB):
    """Memory of every value of a state, and of a process; nothing for weights, which are few here."""
    seen = []

    def rehearse(part):
        seen.append(part)
        places = 64 if part.patch is None else math.prod(part.patch)
        width = part.recipe["width"]
        states = round(bytes_a_value * part.batch * places * (width[0] if part.patch else width))
        peak = process + states
        return Measured(peak, peak, peak, 0, states // 4, states // 8, 0, 200 * MB, 1.0, 0.1)

    return rehearse, seen


@given(st.integers(450, 8000))
def test_the_largest_patch_fits_and_the_next_does_not(megabytes):
    memory = megabytes * MB
    rehearse, seen = machine()
    planned = plan(TUMOUR, rehearse=rehearse)
    best = advice(planned, memory, rehearse=rehearse)["patch"]
    assert len(seen) <= 2 + 2 * 3
    if best is None:
        assert not plan(replace(TUMOUR, patch=(unit_of(TUMOUR),)), rehearse=rehearse).fits(memory)
        return
    assert best.fits(memory)
    (side,) = best.recipe.patch if len(best.recipe.patch) == 1 else {*best.recipe.patch}
    larger = replace(TUMOUR, patch=(side + 2 * unit_of(TUMOUR),))
    longest = -(-max(brain_of(TUMOUR)) // unit_of(TUMOUR)) * unit_of(TUMOUR)
    assert side <= longest
    assert side == longest or not plan(larger, rehearse=rehearse).fits(memory)


@given(st.integers(450, 2000))
def test_the_largest_width_fits_and_keeps_its_proportions(megabytes):
    memory = megabytes * MB
    rehearse, _ = machine()
    best = advice(plan(TUMOUR, rehearse=rehearse), memory, rehearse=rehearse)["width"]
    if best is not None:
        fine, coarse = widths_of(best.recipe)
        assert best.fits(memory) and fine % 2 == coarse % 2 == 0
        assert abs(coarse - 2 * fine) <= 2


def test_data_without_patches_have_no_patch_to_choose():
    rehearse, _ = machine(bytes_a_value=1000.0)
    planned = plan(DIGITS, rehearse=rehearse)
    found = advice(planned, planned.wanted + 20 * MB, rehearse=rehearse)
    assert set(found) == {"width"} and found["width"].recipe.width > DIGITS.width


def test_the_sentence_says_what_fits():
    rehearse, _ = machine()
    with pytest.raises(ValueError, match="tumour does not fit 700 MB: it needs .* the largest that fits is --set patch=.* or --set width=") as refused:  # fmt: skip
        require_within(replace(TUMOUR, patch=(128,)), 700 * MB, rehearse=rehearse)
    settings = [each for each in str(refused.value).split() if "=" in each]
    for setting in settings:
        chosen = replace(TUMOUR, patch=(128,)).with_settings([setting.strip(";,")])
        assert require_within(chosen, 700 * MB, rehearse=rehearse).recipe == chosen
    assert "\n" not in str(refused.value)


def test_where_nothing_fits_the_process_is_named_and_nothing_more_is_rehearsed():
    rehearse, seen = machine()
    with pytest.raises(ValueError, match="no patch and no width fits, since the process alone wants 4.. MB: give it more"):  # fmt: skip
        require_within(TUMOUR, MB, rehearse=rehearse)
    assert len(seen) == 2


def test_what_fits_is_planned_and_said():
    rehearse, _ = machine()
    planned = require_within(TUMOUR, 4000 * MB, rehearse=rehearse)
    assert planned == plan(TUMOUR, rehearse=machine()[0])
    assert as_sentence(planned, 4000 * MB, {}).startswith("tumour fits 4.00 GB: it needs")


@pytest.mark.parametrize(("changes", "text"), [({"patch": (64, 64, 64)}, "64"), ({"patch": (64,)}, "64"), ({"patch": (64, 64, 32)}, "64,64,32")])  # fmt: skip
def test_a_patch_is_written_as_it_is_read(changes, text):
    recipe = replace(TUMOUR, **changes)
    assert setting_of(recipe, "patch") == text
    assert setting_of(recipe, "width") == "8,16" and setting_of(DIGITS, "width") == "32"


def test_where_the_smallest_patch_is_too_much_the_process_is_not_blamed():
    def validating(part):
        """Whole brains are what takes memory, whatever the patch."""
        peak = 400 * MB + 300 * math.prod(part.tile)
        return Measured(410 * MB, peak, 410 * MB, 0, MB, MB, 0, 200 * MB, 1.0, 0.1)

    with pytest.raises(ValueError, match="fits, since the smallest wants more, too") as refused:
        require_within(TUMOUR, 520 * MB, rehearse=validating)
    assert "process alone" not in str(refused.value) and "spacing" in str(refused.value)


def killed():
    raise UnrehearsedError("the recipe cannot be rehearsed: it was killed")


def unbuilt():
    """As where the network itself is more than the machine has."""
    raise ValueError("no network of this width: it was killed") from MemoryError()


def killing(rehearse, most, refuse=killed):
    """A machine with less memory than is asked about: it takes no wider network."""

    def tried(part):
        if part.recipe["width"][0] > most:
            refuse()
        return rehearse(part)

    return tried


@pytest.mark.parametrize(
    ("most", "wide", "refuse"), [(512, 512, killed), (511, 8, killed), (512, 512, unbuilt)]
)
def test_what_this_machine_cannot_rehearse_counts_as_too_large_and_is_said(most, wide, refuse):
    """The first guess is the widest of all, the second one half of it."""
    rehearse = killing(machine()[0], most, refuse)
    planned, heard = plan(TUMOUR, rehearse=rehearse), []
    found = advice(planned, 64_000 * MB, heard.append, rehearse)
    assert found["width"].recipe.width[0] == wide and found["width"].fits(64_000 * MB)
    assert found["patch"].recipe.patch != TUMOUR.patch
    said = [line for line in heard if "counts as too large" in line]
    assert said[0].startswith("width=1024,2048 ") and said[0].endswith("it was killed")
    assert len(said) == (1 if wide > 8 else 2)


def test_where_the_smallest_cannot_be_rehearsed_either_none_fits():
    rehearse, _ = machine()
    planned = plan(TUMOUR, rehearse=rehearse)
    heard: list[str] = []
    found = advice(planned, 450 * MB, heard.append, killing(rehearse, 0))
    assert found == {"patch": None, "width": None}
    said = [line for line in heard if "counts as too large" in line]
    assert len(said) == len({*said}), "each was tried once"
