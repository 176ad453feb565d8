"""Laws of a set: all of it is looked at, from the first case to the last."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from keelnet.data.conventions import convention_of
from keelnet.data.scans import LOOKED_AT, _spread


@given(st.integers(1, 2000))
def test_cases_that_are_looked_at_lie_all_over_the_set(count):
    places = _spread(range(count))
    gaps = np.diff(places)
    assert places[0] == 0 and places[-1] == count - 1
    assert len(places) == min(count, LOOKED_AT) and (gaps > 0).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@given(st.integers(2, 400), st.integers(2, 400))
def test_an_edition_at_the_end_of_a_set_is_seen(count, end):
    """If it is more than two of the cases that are looked at."""
    sets = [frozenset({1, 2, 3})] * count + [frozenset({1, 3, 4})] * end
    assume(end / len(sets) >= 3 / LOOKED_AT)
    convention, _ = convention_of("new", _spread(sets))
    assert convention.name == "brats2024"
