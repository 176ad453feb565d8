"""The ledger: sizes are read as they are written, parts add up to the peak, lines are lines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelnet.experiments.ledger import Ledger, Line, Weights, as_text, bytes_in

UNITS = {"B": 1, "kB": 1000, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "G": 10**9, "GiB": 2**30}


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_a_size_is_read_in_its_unit(number, unit, space):
    for text in (f"{number}{space}{unit}", f" {number}{space}{unit.lower()} "):
        assert bytes_in(text) == number * UNITS[unit]


@given(st.integers(1, 10**14))
def test_what_is_written_is_read_back_to_three_digits(size):
    assert bytes_in(as_text(size)) == pytest.approx(size, rel=0.0051)
    assert sum(letter.isdigit() for letter in as_text(size)) <= 4


@pytest.mark.parametrize("text", ["0", "0GB", "-1GB", "4XB", "4 apples", "", "GB", "nan", "inf", "1e3MB", "4iB", "0.1B", "9" * 30 + "GB"])  # fmt: skip
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"written like 4GB.*got"):
        bytes_in(text)


def test_fractions_are_sizes_too():
    assert bytes_in("3.5G") == 3_500_000_000 and bytes_in(".5GB") == 500_000_000


SIZES = st.integers(0, 10**9)


@given(SIZES, SIZES, SIZES, SIZES, st.booleans(), SIZES)
def test_the_parts_add_up_to_the_peak(process, kept, data, moments, averaged, more):
    weights = Weights(1000, moments, averaged)
    known = process + weights.bytes + kept + data
    ledger = weights.ledger(process, kept, data, known + more)
    assert ledger.peak == known + more and ledger.working == more
    assert ledger.growth == ledger.peak - process
    assert (
        ledger.parameters + ledger.gradients + ledger.optimiser + ledger.weights_kept
        == weights.bytes
    )


def test_nothing_takes_less_than_nothing():
    with pytest.raises(ValueError, match="working cannot be negative, got -1"):
        Ledger(0, 0, 0, 0, 0, 0, -1, 0)


NUMBERS = st.floats(-1e6, 1e6)


@given(NUMBERS, NUMBERS, st.lists(st.floats(0.01, 1), min_size=2, max_size=5, unique=True))
def test_a_line_goes_through_points_of_a_line(constant, slope, shares):
    if max(shares) - min(shares) < 1e-3:
        return
    line = Line.through([(share, constant + slope * share) for share in shares])
    assert line.at(1) == pytest.approx(constant + slope, abs=1e-3)
    assert line.at(0) == pytest.approx(constant, abs=1e-3)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 1.0]), NUMBERS), min_size=1, max_size=6))
def test_no_other_line_is_nearer(points):
    line = Line.through(points)

    def distance(constant, slope):
        return math.fsum((constant + slope * x - y) ** 2 for x, y in points)

    best = distance(line.constant, line.slope)
    for change in (-10.0, 10.0):
        assert best <= distance(line.constant + change, line.slope) + 1e-3
        assert best <= distance(line.constant, line.slope + change) + 1e-3


def test_a_line_needs_a_point():
    with pytest.raises(ValueError, match="at least one point"):
        Line.through([])
