"""Plain values are what JSON can hold, and nothing else of them changes."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from keelnet.analysis.tables import plain


@dataclass(frozen=True)
class Found:
    name: str
    value: float
    every: tuple[float, ...]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"a": math.nan, "b": {"c": (1.0, -math.inf)}}, {"a": None, "b": {"c": [1.0, None]}}),
        (np.array([[1.5, math.nan], [math.inf, 2.0]]), [[1.5, None], [None, 2.0]]),
        (np.array([[1.5, 2.5]]), [[1.5, 2.5]]),
        (np.array([1 + 2j, complex(math.nan, 3)]), [[1.0, 2.0], [None, 3.0]]),
        (np.arange(3), [0, 1, 2]),
        ({"found": Found("x", math.inf, (0.5,))}, {"found": {"name": "x", "value": None, "every": [0.5]}}),
        ([np.float64("nan"), "nan", 3, True, None], [None, "nan", 3, True, None]),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_null_wherever_it_lies(value, wanted):
    assert plain(value) == wanted
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == wanted
