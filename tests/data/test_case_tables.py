"""Laws of cases in tables and folders: what is listed is found however it is written, what is ambiguous is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scans import NEW, OLD, classes, volumes, write, write_case

from keelnet.data.cases import find_cases
from keelnet.data.conventions import convention_named
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
        (f"{HEADER}\n", "no case in"),
        ("", "no case in"),
        (f"\n{HEADER}\n{LINE}\n", "no column for flair, t1, t1ce, t2; .* got an empty first line"),
        (f",,\n{HEADER}\n{LINE}\n", "got an empty first line"),
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


def listing(folder, names, words, separator, columns="case,flair,t1,t1ce,t2,seg"):
    """A table of the files that a folder holds."""
    lines = [
        ",".join([name, *(f"{name}/{name}{separator}{word}.nii.gz" for word in (*words.values(), "seg"))])
        for name in names
    ]  # fmt: skip
    return table(folder, "\n".join([columns, *lines, ""]))


EDITIONS = {  # a name, words for the modalities, values of necrosis, edema, enhancing: the convention
    "up to 2021": ("BraTS2021_0000", OLD, (1, 2, 4), "brats2021"),
    "2023": ("BraTS-GLI-0000", NEW, (1, 2, 3), "brats2023"),
    "children": ("BraTS-PED-0000", NEW, (2, 4, 1), "peds2024"),
    "a cavity and nothing that enhances": ("BraTS-GLI-0000", NEW, (1, 2, 4), None),
    "another convention": ("BraTS2021_0000", OLD, (1, 2, 3), None),
}


@pytest.mark.parametrize("which", EDITIONS)
def test_files_in_a_table_mean_what_they_mean_in_a_folder(which, tmp_path):
    stem, words, values, name = EDITIONS[which]
    separator = "_" if words is OLD else "-"
    names = [f"{stem}{number}{'-000' * (words is NEW)}" for number in range(2)]
    for each in names:
        write_case(tmp_path, each, words, values, separator)
    path = listing(tmp_path, names, words, separator)
    if name is None:
        for source in (tmp_path, path):
            with pytest.raises(ValueError, match="--labels brats2021"):
                settle(find_cases([source]))
        return
    for source in (tmp_path, path):
        found = settle(find_cases([source]))
        assert found.convention.name == name
        for scan in read_scans(found):
            np.testing.assert_array_equal(scan.classes, classes())


@pytest.mark.parametrize("where", ["case", "file", "folder"])
def test_children_in_a_table_are_told_by_any_of_its_names(where, tmp_path):
    names = {each: "BraTS-PED-00001-000" if each == where else "x" for each in ("case", "file", "folder")}  # fmt: skip
    begin = f"{names['file']}-" if where == "file" else ""
    for volume, word in zip(volumes(), NEW.values(), strict=True):
        write(tmp_path / names["folder"] / f"{begin}{word}.nii.gz", volume)
    write(tmp_path / names["folder"] / "seg.nii.gz", np.array([0, 2, 4, 1], np.uint8)[classes()])
    files = [f"{names['folder']}/{begin}{word}.nii.gz" for word in NEW.values()]
    line = ",".join([names["case"], *files, f"{names['folder']}/seg.nii.gz"])
    (scan,) = read_scans(settle(find_cases([table(tmp_path, f"{HEADER}\n{line}\n")])))
    np.testing.assert_array_equal(scan.classes, classes())


def beside_old_names(folder, words, values=(1, 2, 4)):
    """A table with a second case whose modalities are called by these words."""
    write_case(folder, "b", NEW, values, "-")
    for old, new in zip(NEW.values(), words, strict=True):
        (folder / "b" / f"b-{old}.nii.gz").rename(folder / "b" / f"b-{new}.nii.gz")
    cells = [f"b/b-{word}.nii.gz" for word in (*words, "seg")]
    return table(folder, f"{HEADER}\n{LINE}\n{','.join(['b', *cells])}\n")


def test_names_that_say_nothing_do_not_contradict_the_others(folder):
    found = settle(find_cases([beside_old_names(folder, [f"{word}-1" for word in NEW])]))
    assert found.convention == convention_named("brats2021")


def test_labels_beside_names_that_say_nothing_do(folder):
    path = beside_old_names(folder, [f"{word}-1" for word in NEW], (1, 2, 3))
    for name in ("d", "e"):
        with path.open("a") as file:
            file.write(f"{name},{path.read_text().splitlines()[2].partition(',')[2]}\n")
    with pytest.raises(ValueError, match="--labels"):
        settle(find_cases([path]))


def test_a_table_of_names_of_several_kinds_needs_the_flag(folder):
    path = beside_old_names(folder, NEW.values())
    with pytest.raises(ValueError, match="named by more than one convention.*--labels"):
        settle(find_cases([path]))
    scans = list(read_scans(settle(find_cases([path]), convention_named("brats2021"))))
    for scan in scans:
        np.testing.assert_array_equal(scan.classes, classes())
    assert [scan.name for scan in scans] == ["b", "c"]


@pytest.mark.parametrize("values", [(1, 2, 4), (1, 2, 3)])
def test_a_table_of_files_whose_names_say_nothing_needs_the_flag(values, folder):
    write_case(folder, "a", values=values)
    for path in sorted((folder / "a").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "-1.nii")))
    path = table(folder, f"{HEADER}\n{LINE.replace('.nii', '-1.nii')}\n")
    with pytest.raises(ValueError, match="is not clear.*--labels brats2021"):
        settle(find_cases([path]))


NAMED = {  # columns before those of the files, and their cells in two lines: names, and what is said of the table
    "subject": ("subject", ["S1", "S2"], ["S1", "S2"], ""),
    "Patient ": ("Patient ", ["S1", "S2"], ["S1", "S2"], ""),
    "case goes first": ("id,case", ["1,S1", "2,S2"], ["S1", "S2"], "not read: id"),
    "one of each line": ("patient,id", ["p,S1", "p,S2"], ["S1", "S2"], "not read: label_path"),
    "one of no line": ("patient", ["p", "p"], ["line 2", "line 3"], "label_path; without a column case, cases are called by their lines"),
    "other columns": ("case,age", ["S1,80", "S2,"], ["S1", "S2"], "columns of scans.csv that are not read: age"),
    "a gap": ("name", ["S1", ""], ["line 2", "line 3"], "without a column case"),
    "a gap beside a whole one": ("subject,id", ["S1,1", ",2"], ["1", "2"], "not read: label_path"),
    "no names of files": ("id", ["ucsf/1", "ucsf/2"], ["line 2", "line 3"], "not read: id"),
}  # fmt: skip


@pytest.mark.parametrize("which", NAMED)
def test_what_a_table_calls_its_cases_is_found_and_what_is_not_read_is_said(which, folder):
    columns, cells, names, said = NAMED[which]
    lines = [f"{HEADER.replace('case', columns)},label_path"]
    lines += [f"{each}{LINE[1:]},x" for each in cells]
    found = find_cases([table(folder, "\n".join([*lines, ""]))])
    assert [case.name for case in found.cases] == names and not found.refused
    (remark,) = found.remarks
    assert said in remark and "label_path" in remark and remark in str(found)


WHOSE = {  # columns before those of the files, and their cells in two lines: whose scans these are
    "no column": ("case", ["S1", "S2"], ["S1", "S2"]),
    "one patient": ("case,patient", ["S1,p", "S2,p"], ["p", "p"]),
    "in capitals": ("case,Participant_ID", ["S1,p", "S2,q"], ["p", "q"]),
    "a gap": ("case,subject_id", ["S1,p", "S2,"], ["p", "S2"]),
    "a subject for each scan": ("subject,patient", ["S1,p", "S2,p"], ["p", "p"]),
    "dates": ("subject", ["BraTS-GLI-00005-100", "BraTS-GLI-00005-101"], ["BraTS-GLI-00005"] * 2),
}


@pytest.mark.parametrize("which", WHOSE)
def test_a_table_says_whose_scans_these_are(which, folder):
    columns, cells, whose = WHOSE[which]
    lines = [HEADER.replace("case", columns), *(f"{each}{LINE[1:]}" for each in cells)]
    found = find_cases([table(folder, "\n".join([*lines, ""]))])
    assert [case.whose for case in found.cases] == whose and not found.remarks


def test_every_bad_line_is_shown_whatever_its_name(folder):
    lines = [HEADER, LINE, "q,a,b,c", "q,a,b,,d"]
    found = find_cases([path := table(folder, "\n".join([*lines, ""]))])
    assert [case.name for case in found.cases] == ["c"]
    assert [*found.refused.items()] == [
        (f"q ({path}, line 3)", "line 3 of scans.csv names no file for t2"),
        (f"q ({path}, line 4)", "line 4 of scans.csv names no file for t1ce"),
    ]


def test_a_line_that_stands_twice_counts_once_and_two_cases_of_one_name_are_refused(folder):
    bare = LINE.replace("a/a_seg.nii.gz", "")
    found = find_cases([table(folder, f"{HEADER}\n{LINE}\n{LINE}\nd{LINE[1:]}\n")])
    assert [case.name for case in found.cases] == ["c", "d"] and not found.refused
    found = find_cases([table(folder, f"{HEADER}\n{LINE}\n{bare}\nd{LINE[1:]}\n")])
    assert [case.name for case in found.cases] == ["d"] and len(found.refused) == 2
    for reason in found.refused.values():
        assert "two cases are called c, in lines 2 and 3 of scans.csv" in reason
        assert "the column case" in reason
