"""Laws of synthetic sets on disk: a case is the same in every layout, and others read its lists."""

from __future__ import annotations

import json

import pytest

from keelnet.data.cases import find_cases
from keelnet.data.prepared import content_of
from keelnet.data.scans import read_scans, settle
from keelnet.data.synthetic import LAYOUTS, Synthesis, case_name, dataset_json, write_cases


def test_a_case_is_known_again_in_every_layout(tmp_path):
    """By which those that a run has made for itself and trained on are told from others."""
    synthesis = Synthesis(seed=3, resolution=4)
    for layout in LAYOUTS:
        list(write_cases(synthesis, tmp_path / layout, 1, layout))
    found = [settle(find_cases([tmp_path / layout])) for layout in LAYOUTS]
    assert len({content_of(scan) for each in found for scan in read_scans(each)}) == 1


def test_monai_reads_the_decathlons_lists(tmp_path):
    from monai.data.decathlon_datalist import load_decathlon_datalist

    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(dataset_json(2)))
    about = json.loads(path.read_text())
    files = [f"{case_name('msd', number)}.nii.gz" for number in range(2)]
    assert load_decathlon_datalist(str(path), True, "training") == [
        {"image": str(tmp_path / "imagesTr" / each), "label": str(tmp_path / "labelsTr" / each)}
        for each in files
    ]
    assert (about["numTraining"], about["numTest"], about["test"]) == (2, 0, [])
    assert about["tensorImageSize"] == "4D"


def test_the_lists_name_what_is_written(tmp_path):
    list(write_cases(Synthesis(seed=3, resolution=4), tmp_path, 1, "msd"))
    (pair,) = dataset_json(1)["training"]
    assert all((tmp_path / each).is_file() for each in pair.values())


def test_unknown_layouts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown layout 'bids'; known are brats2021"):
        next(write_cases(Synthesis(resolution=4), tmp_path, 1, "bids"))
