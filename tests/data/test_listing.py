"""Laws of dataset.json: what it says of labels is heeded, and what nobody understands changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import classes, volumes, write, write_decathlon

from keelnet.data.cases import find_cases
from keelnet.data.conventions import CONVENTIONS, convention_named
from keelnet.data.listing import Listing, _convention, _meant
from keelnet.data.scans import read_scans, settle

ORDER = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
OFFICIAL = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
SAID = {  # of labels: the convention
    "the Decathlon": (OFFICIAL, "msd"),
    "nothing": (None, "msd"),
    "a list": (["background", "edema"], "msd"),
    "no known words": ({"1": "Nekrose et cetera", "2": "tumor", "3": 7, "4": None}, "msd"),
    "a part": ({"1": "Peritumoral Edema"}, "msd"),
    "2023": ({"1": "necrosis", "2": "edema", "3": "enhancing tumor"}, "brats2023"),
    "2023, short": ({"1": "NETC", "2": "SNFH", "3": "ET"}, "brats2023"),
    "2023, long": (
        {
            "1": "non-enhancing tumor core",
            "2": "surrounding non-enhancing FLAIR hyperintensity",
            "3": "enhancing tissue",
        },
        "brats2023",
    ),
    "2021": ({"0": "none", "1": "NCR/NET", "2": "oedema", "4": "GD-enhancing tumour"}, "brats2021"),
    "2024": ({"1": "NCR", "2": "ED", "3": "ET", "4": "resection cavity"}, "brats2024"),
    "children": (
        {"1": "enhancing", "2": "nonenhancing", "3": "cystic component", "4": "edema"},
        "peds2024",
    ),
    "nnU-Net": ({"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}, "brats2023"),
    "nnU-Net's Decathlon": ({"background": 0, "edema": 1, "NCR": 2, "enhancing": 3}, "msd"),
    "regions": (
        {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
        "msd",
    ),
    "other regions": (
        {"whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": [3], "ignore": 5},
        "brats2023",
    ),
    "several may be": ({"1": "necrosis", "2": "edema"}, None),
    "none is": ({"1": "enhancing", "2": "edema", "3": "necrosis"}, None),
}


def listed(folder, labels, key="modality"):
    (folder / "dataset.json").write_text(json.dumps({key: ORDER, "labels": labels}))
    return folder


@pytest.mark.parametrize("which", SAID)
def test_labels_mean_what_their_list_says(which, tmp_path):
    labels, name = SAID[which]
    write_decathlon(listed(tmp_path, labels), "A_1")
    flag = convention_named("msd") if name is None else None
    if name is None:
        with pytest.raises(ValueError, match="is not clear.*--labels"):
            settle(find_cases([tmp_path]))
    convention = flag or CONVENTIONS[name]
    values = convention.to_file(classes())
    write(tmp_path / "labelsTr" / "A_1.nii.gz", values)
    found = settle(find_cases([tmp_path]), flag)
    assert found.convention is convention
    (scan,) = read_scans(found)
    np.testing.assert_array_equal(scan.classes, classes())
    np.testing.assert_array_equal(scan.x, volumes())


ODD = st.one_of(st.none(), st.booleans(), st.integers(-1, 5), st.floats(), st.text(max_size=3), st.lists(st.integers(0, 4), max_size=3))  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(["0", "1", "whole", "core", "ET", "x"]), ODD), max_size=4).map(dict))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_no_words_keep_a_list_from_being_read(labels):
    assert _convention(_meant(labels)) in {"", *CONVENTIONS}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_is_told_by_its_own_classes(name):
    assert _convention(CONVENTIONS[name].classes) == name


def test_the_modalities_may_stand_where_nnunet_lists_them(tmp_path):
    found = Listing.in_folder(listed(tmp_path, OFFICIAL, "channel_names"))
    assert found == Listing(told=True) and found.order == ("flair", "t1", "t1ce", "t2")
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match="does not list its modalities .*modality"):
        Listing.in_folder(tmp_path)


def test_a_list_of_other_values_than_the_labels_have_is_refused(tmp_path):
    write_decathlon(listed(tmp_path, SAID["2021"][0]), "A_1")
    with pytest.raises(ValueError, match="as a dataset.json says.*labels are 1, 2, 3.*--labels"):
        settle(find_cases([tmp_path]))
