"""Laws of cases in tables and folders: what is listed is found however it is written, what is ambiguous is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scans import classes, volumes, write, write_case

from keelnet.data.cases import find_cases
from keelnet.data.scans import read_scans, settle

HEADER = "case,flair,t1,t1ce,t2,seg"
LINE = "c," + ",".join(f"a/a_{word}.nii.gz" for word in ("flair", "t1", "t1ce", "t2", "seg"))
ALIKE = {
    "commas": f"{HEADER}\n{LINE}\n".encode(),
    "semicolons": f"{HEADER}\n{LINE}\n".replace(",", ";").encode(),
    "tabs": f"{HEADER}\n{LINE}\n".replace(",", "\t").encode(),
    "a byte order mark": f"{HEADER}\r\n{LINE}\r\n".encode("utf-8-sig"),
    "empty lines": f"{HEADER}\n\n{LINE}\n,,,,,\n".encode(),
    "another column": f"{HEADER},age\n{LINE},80\n".encode(),
    "other words": f"Case,T2F,T1n,T1C,T2w,Mask\n{LINE}\n".encode(),
}


@pytest.fixture
def folder(tmp_path):
    write_case(tmp_path, "a")
    return tmp_path


def table(folder, content):
    path = folder / "scans.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("how", ALIKE)
def test_tables_are_read_as_programs_write_them(how, folder):
    (scan,) = read_scans(settle(find_cases([table(folder, ALIKE[how])])))
    assert scan.name == "c"
    np.testing.assert_array_equal(scan.x, volumes())
    np.testing.assert_array_equal(scan.classes, classes())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("case,flair,t1\nc,x,y\n", "no column for t1ce, t2; wanted are case, flair"),
        (f"{LINE}\n", "no column for flair"),
        ("case,flair,t1,t1ce,t1gd,t2\nc,a,b,c,d,e\n", "two columns for t1ce: t1ce and t1gd"),
        ("case,flair,t1,t1ce,t2,seg,mask\nc,a,b,c,d,e,f\n", "two columns for seg"),
        (f"{HEADER}\n{LINE}\n".encode("utf-16"), "no table in UTF-8"),
        (f"{HEADER}\n{LINE}\n{LINE}\n", "two cases are called c"),
        (f"{HEADER}\n", "no case in"),
        ("", "no case in"),
    ],
)
def test_a_table_that_says_too_little_or_too_much_is_refused(content, words, folder):
    with pytest.raises(ValueError, match=words):
        find_cases([table(folder, content)])


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        ("d,a/a_flair.nii.gz", "d", "line 3 of scans.csv names no file for t1, t1ce, t2"),
        ("d,x,y,x,z", "d", "line 3 of scans.csv names one file for flair and t1ce"),
        ("d,w,x,y,z", "d", "w does not exist"),
        (",,x,y,z", "line 3", "names no file for flair"),
        *((f"{name}{LINE[1:]}", name, "no file can be called so") for name in ("../d", "/tmp/d", "e/d", "..", ".d")),
    ],
)  # fmt: skip
def test_a_bad_line_is_a_bad_case(line, name, words, folder):
    """Also where its name would lead out of the folder of the results."""
    found = settle(find_cases([table(folder, f"{HEADER}\n{LINE}\n{line}\n")]))
    assert [scan.name for scan in read_scans(found, skip_bad=True)] == ["c"]
    assert list(found.refused) == [name] and words in found.refused[name]


def test_two_files_of_labels_are_not_chosen_between(folder):
    write(folder / "a" / "a_label.nii.gz", classes())
    found = find_cases([folder])
    assert found.refused == {"a": "two files of labels: a_label.nii.gz and a_seg.nii.gz"}


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(folder, monkeypatch):
    write_case(folder, "b")
    real = os.scandir

    def closed(place):  # permissions do not keep an administrator out, whose tests these may be
        if str(place).endswith("b"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", closed)
    found = find_cases([folder])
    assert [case.name for case in found.cases] == ["a"]
    assert found.refused == {"b": f"{folder / 'b'} cannot be read (Permission denied)"}


def test_names_in_capitals_are_names(folder):
    for path in (folder / "a").iterdir():
        path.rename(path.with_name(path.name.upper()))
    (scan,) = read_scans(settle(find_cases([folder])))
    assert scan.name == "A"
    np.testing.assert_array_equal(scan.x, volumes())
