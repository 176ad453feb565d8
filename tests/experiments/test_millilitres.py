"""Millilitres: what is there is never written or shown as nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelnet.experiments.millilitres import shown, written


@given(ml=st.floats(1e-9, 1e5), digits=st.integers(1, 3))
def test_no_volume_is_shown_as_nothing(ml, digits):
    assert written(ml) == pytest.approx(ml, rel=1e-5)
    number = float(re.fullmatch(r"(.*) ml", shown(ml, digits))[1])
    assert number == pytest.approx(ml, rel=0.01, abs=0.51 * 10**-digits if ml >= 0.1 else 0)


def test_what_is_large_enough_has_its_decimals():
    assert [shown(0.0), shown(0.1), shown(12.34)] == ["0.0 ml", "0.1 ml", "12.3 ml"]
    assert [shown(0.0999), shown(1.2e-5), shown(77.0, 2)] == ["0.0999 ml", "1.2e-05 ml", "77.00 ml"]
