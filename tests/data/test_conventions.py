"""Laws of conventions: names and values settle what labels mean, one bad case does not unsettle it."""

from __future__ import annotations

import numpy as np
import pytest
from scans import NEW, classes, write, write_case

from keelnet.data.cases import find_cases
from keelnet.data.conventions import CONVENTIONS, convention_of
from keelnet.data.scans import read_scans, settle

MANY = [{1, 2, 3}] * 3
SETTLED = {  # names, values case by case: the convention, and which cases are refused
    "7 up to 2021": ("old", [{1, 2, 4}, {1, 2, 4, 7}], "brats2021", [1]),
    "3 up to 2021": ("old", [{1, 2, 4}, {1, 2}, {1, 2, 3}], "brats2021", [2]),
    "7 in 2023": ("new", [{1, 2, 3}, {1, 7, 3}], "brats2023", [1]),
    "4 in 2023": ("new", [*MANY, {1, 2, 4}], "brats2023", [3]),
    "4 and 3 in 2023": ("new", [*MANY, {1, 2, 3, 4}], "brats2023", [3]),
    "4 in the Decathlon": ("msd", [*MANY, {1, 2, 4}], "msd", [3]),
    "4 in 2024": ("new", [*MANY, {1, 3, 4}, {2, 4}], "brats2024", []),
    "9 as a list says": ("brats2021", [{1, 2, 4}, {1, 2, 9}], "brats2021", [1]),
    "a list without a 4 of children": ("peds2024", [{1, 2}, {1, 3}], "peds2024", []),
    "1 alone twice": ("old", [{1}, set(), {1}], "brats2021", []),
    "1 alone in most": ("old", [{1}, {1}, {1}, {2}], "brats2021", []),
    "4 of children": ("children", [{1, 2}, {1, 2, 4}, {1, 3}], "peds2024", []),
    "no tumour": ("new", [set(), {1, 2}], "brats2023", []),
}
DOUBTFUL = {
    "3 up to 2021": ("old", [{1, 2}, {1, 2, 3}]),
    "4 in the Decathlon": ("msd", [{1, 2, 4}, {1, 2}]),
    "4 without 3": ("new", [{1, 2, 4}, {1, 2, 4}, {1, 2, 3}]),
    "no 4 of children": ("children", [{1, 2, 3}, {1, 2}]),
    "3 in a table": ("listed", [{1, 2, 3}]),
    "4 in a table": ("listed", [{1, 2, 4}, {1, 2, 4}]),
    "3 and 4 in a table": ("listed", [{1, 2, 4}, {1, 2, 3}]),
    "3 where a list says 4": ("brats2021", [{1, 2, 3}]),
    **{f"1 alone, {names}": (names, [{1}] * 3) for names in ("old", "new", "msd", "listed")},
}


@pytest.mark.parametrize("which", SETTLED)
def test_a_few_cases_that_contradict_the_others_leave_the_set_settled(which):
    names, cases, name, refused = SETTLED[which]
    convention, _ = convention_of(names, [frozenset(values) for values in cases])
    assert convention.name == name
    for number, values in enumerate(cases):
        labels = np.array([0, *values])
        if number not in refused:
            classes_of_it = convention.from_file(labels)
            back = convention.from_file(convention.to_file(classes_of_it))
            assert back.tolist() == classes_of_it.tolist()
            continue
        strange = min(values - convention.classes.keys())
        # A flag is named where one would help.
        way = "correct the file" if max(values) > 4 else "--labels"
        with pytest.raises(
            ValueError, match=f"labels hold {strange}, but {convention.title}.*{way}"
        ):
            convention.from_file(labels)


@pytest.mark.parametrize("which", DOUBTFUL)
def test_values_that_names_do_not_explain_need_the_flag(which):
    names, cases = DOUBTFUL[which]
    with pytest.raises(ValueError, match="--labels brats2021"):
        convention_of(names, [frozenset(values) for values in cases])


@pytest.mark.parametrize("value", [7, 2.5, 4, np.nan, -1, 300])
def test_one_case_with_a_stray_label_is_refused_by_its_name(value, tmp_path):
    for name in ("a", "b", "c"):
        write_case(tmp_path, name, NEW, (1, 2, 3), "-")
    labels = classes().astype(np.float32)
    labels[4, 4, 4] = value
    write(tmp_path / "b" / "b-seg.nii.gz", labels)
    found = settle(find_cases([tmp_path]))
    assert [scan.name for scan in read_scans(found, skip_bad=True)] == ["a", "c"]
    reason = f"b-seg.nii.gz: labels hold {value:g}, but BraTS 2023 glioma has only 0, 1, 2, 3"
    assert found.refused["b"].startswith(reason) and "\n" not in found.refused["b"]
    with pytest.raises(ValueError, match="case b: b-seg"):
        list(read_scans(settle(find_cases([tmp_path]))))


@pytest.mark.parametrize("name", CONVENTIONS)
def test_labels_come_back_as_they_were(name):
    convention = CONVENTIONS[name]
    given = np.array([0, *convention.classes], np.uint8)
    meant = convention.from_file(given)
    np.testing.assert_array_equal(convention.from_file(convention.to_file(meant)), meant)
    if len(set(meant)) == len(
        meant
    ):  # children's cysts come back as the core that they are counted to
        np.testing.assert_array_equal(convention.to_file(meant), given)
    with pytest.raises(ValueError, match="labels hold 7"):
        convention.from_file(np.array([0, 7]))
