"""Making synthetic sets: of a case no more is kept than is shown of it."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from keelnet.data.synthetic import SyntheticCase
from keelnet.data.tumours import Lesions
from keelnet.experiments import synthesis
from keelnet.experiments.synthesis import Row, synthesise


def drawn(level):
    """A case with tumour and look-alikes on all levels, most on this one."""
    random = np.random.default_rng(level)
    x = random.uniform(1, 9, (4, 5, 6, 7)).astype(np.float32)
    classes, mimics = (np.zeros((5, 6, 7), np.uint8) for _ in range(2))
    classes[2, 2] = mimics[4, 4] = 1
    classes[1:4, 1:5, level] = 2
    mimics[0, 0, level] = 3
    return SyntheticCase(x, Lesions(classes, mimics), np.eye(4))


@pytest.mark.usefixtures("unrendered")
def test_volumes_go_once_their_case_is_written(tmp_path, monkeypatch):
    """A view of one level would keep all of them."""
    volumes = []

    def written(*arguments):
        for number in range(4):
            case = drawn(number)
            parts = (case.x, case.lesions.classes, case.lesions.mimics)
            volumes.append([weakref.ref(part) for part in parts])
            yield str(number), case
            del case, parts

    monkeypatch.setattr(synthesis, "write_cases", written)
    for count, _ in enumerate(synthesise(tmp_path / "out", 4, resolution=4), 1):
        kept = [any(part() is not None for part in each) for each in volumes]
        assert sum(kept) == 1, (count, kept)


@pytest.mark.parametrize("level", [0, 3, 6])
def test_what_is_shown_is_where_most_tumour_is(level):
    case = drawn(level)
    row = Row.of("a", case)
    np.testing.assert_array_equal(row.x, case.x[..., level])
    np.testing.assert_array_equal(row.classes, case.lesions.classes[..., level])
    np.testing.assert_array_equal(row.mimics, case.lesions.mimics[..., level])
