"""Laws of names: no two cases bear one, whichever way they were asked for, and a name is never made up without need."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scans import OLD, classes, volumes, write, write_case

from keelnet.data.case import Case
from keelnet.data.case_names import with_own_names
from keelnet.data.cases import find_cases
from keelnet.data.refusals import Refusals


def bare(folder):
    """A case that only its folder names."""
    for values, word in zip(volumes(), OLD, strict=True):
        write(folder / f"{word}.nii.gz", values)
    return folder


SESSIONS = {  # folders of scans: the names of the cases
    "none alike": (["p1/ses-1", "p2/ses-2"], ["ses-1", "ses-2"]),
    "two patients": (["p1/ses-1", "p2/ses-1"], ["p1_ses-1", "p2_ses-1"]),
    "a session that one patient has": (
        ["p1/ses-1", "p1/ses-2", "p2/ses-1"],
        ["p1_ses-1", "p1_ses-2", "p2_ses-1"],
    ),
    "sessions of other days": (
        ["p1/ses-0102", "p1/ses-0703", "p2/ses-0311", "p2/ses-1010", "p3/ses-0101"],
        ["p1_ses-0102", "p1_ses-0703", "p2_ses-0311", "p2_ses-1010", "ses-0101"],
    ),
    "sessions of other numbers": (
        ["p1/ses-1", "p2/ses-1", "p3/ses-3", "p3/ses-4"],
        ["p1_ses-1", "p2_ses-1", "p3_ses-3", "p3_ses-4"],
    ),
    "points in time": (["p1/Timepoint_1", "p1/Timepoint_2"], ["p1_Timepoint_1", "p1_Timepoint_2"]),
    "a patient beside": (["p1/ses-1", "p2/ses-1", "p3"], ["p1_ses-1", "p2_ses-1", "p3"]),
    "sites": (["a/p1/s", "a/p2/s", "b/p1/s"], ["a_p1_s", "a_p2_s", "b_p1_s"]),
    "below sessions": (["p1/ses-1/anat", "p1/ses-2/anat"], ["p1_ses-1_anat", "p1_ses-2_anat"]),
    "grades": (["HGG/1", "HGG/2", "LGG/1"], ["2", "HGG_1", "LGG_1"]),
}


@pytest.mark.parametrize("which", SESSIONS)
def test_folders_that_are_called_alike_are_told_apart_by_those_above(which, tmp_path):
    folders, names = SESSIONS[which]
    for folder in folders:
        bare(tmp_path / folder)
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == names and not found.refused
    patients: dict[str, set[str]] = {}
    for case in found.cases:
        folder = case.first.relative_to(tmp_path).parent
        if re.search("ses-|Timepoint", str(folder)):
            patients.setdefault(folder.parts[0], set()).add(case.whose)
    assert all(len(told) == 1 for told in patients.values())
    assert len({*map(min, patients.values())}) == len(patients)


def test_a_folder_gives_way_to_a_case_of_its_name(tmp_path):
    write_case(tmp_path, "s")
    bare(tmp_path / "p" / "s")
    assert [case.name for case in find_cases([tmp_path]).cases] == ["p_s", "s"]


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), max_size=8))
def test_no_two_cases_bear_one_name_and_none_is_lost(paths):
    """Cases of any folders: each is there by its own name, or refused."""
    folders = [f"/{'/'.join(path)}" for path in paths]
    cases = [Case(path[-1], {"all": _file(folder)}, None, "old", bare=True) for path, folder in zip(paths, folders, strict=True)]  # fmt: skip
    refused = Refusals()
    found = with_own_names(cases, refused)
    names = [case.name for case in found]
    assert len({*names}) == len(names)
    assert len(names) + len(refused.reasons) == len({*folders})


def _file(folder):
    from pathlib import Path

    return Path(folder) / "flair.nii.gz"


def test_files_of_one_name_are_refused_each_with_the_way_out(tmp_path):
    for place in ("a", "b"):
        write_case(tmp_path / place, "x")
    write_case(tmp_path, "y")
    found = find_cases([tmp_path])
    assert [case.name for case in found.cases] == ["y"]
    assert set(found.refused) == {f"x ({tmp_path / place / 'x'})" for place in ("a", "b")}
    for place, other in (("a", "b"), ("b", "a")):
        reason = found.refused[f"x ({tmp_path / place / 'x'})"]
        assert "two cases are called x" in reason and str(tmp_path / other / "x") in reason
        assert "column case of a CSV" in reason and "\n" not in reason
    assert [case.name for case in find_cases([tmp_path / "a"]).cases] == ["x"]


@pytest.mark.parametrize("again", ["a", "a/a_*.nii.gz", "link/a", "scans.csv"])
def test_what_is_asked_for_twice_is_there_once(again, tmp_path):
    write_case(tmp_path, "a")
    write_case(tmp_path, "b")
    (tmp_path / "link").symlink_to(tmp_path)
    cells = ",".join(f"a/a_{word}.nii.gz" for word in (*OLD, "seg"))
    (tmp_path / "scans.csv").write_text(f"case,flair,t1,t1ce,t2,seg\na,{cells}\n")
    more = sorted(tmp_path.glob(again))
    found = find_cases([tmp_path, *more, *more])
    assert [case.name for case in found.cases] == ["a", "b"] and not found.refused
    assert found.cases[0].labels == tmp_path / "a" / "a_seg.nii.gz"


def test_what_is_asked_for_twice_with_other_labels_is_refused(tmp_path):
    case = write_case(tmp_path, "a")
    other = write(tmp_path / "other" / "a_seg.nii.gz", classes())
    cells = ",".join(f"a/a_{word}.nii.gz" for word in OLD)
    (tmp_path / "scans.csv").write_text(f"case,flair,t1,t1ce,t2,seg\na,{cells},{other}\n")
    found = find_cases([case, tmp_path / "scans.csv"])
    assert not found.cases and "two cases are called a" in " ".join(found.refused.values())
