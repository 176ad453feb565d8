"""Laws of patients: scans of one are told by their names, and no two patients are taken for one."""

from __future__ import annotations

import pytest

from keelnet.data.patients import patient_of

PATIENTS = {
    "BraTS-GLI-00005-100": "BraTS-GLI-00005",
    "BraTS-GLI-00005-101": "BraTS-GLI-00005",
    "BraTS-MEN-RT-0001-1": "BraTS-MEN-RT-0001",
    "UPENN-GBM-00001_11": "UPENN-GBM-00001",
    "UPENN-GBM-00001_21": "UPENN-GBM-00001",
    "UCSF-PDGM-0429": "UCSF-PDGM-0429",
    "UCSF-PDGM-0429_FU003d": "UCSF-PDGM-0429",
    "RHUH-0001_0": "RHUH-0001",
    "100102_time1": "100102",
    "100102_time2": "100102",
    "PatientID_0003_Timepoint_1": "PatientID_0003",
    "PatientID_0003_Timepoint_10_brain": "PatientID_0003",
    "sub-01": "sub-01",
    "sub-01_ses-2": "sub-01",
    "sub-011_ses-2": "sub-011",
    "sub-glioma_001": "sub-glioma_001",
    "p1_ses-1": "p1",
    "site_p1_ses-2_anat": "site_p1",
    "BraTS2021_00005": "BraTS2021_00005",
    "Brats17_TCIA_201_1": "Brats17_TCIA_201_1",
    "BRATS_001": "BRATS_001",
    "a_times_1": "a_times_1",
}


@pytest.mark.parametrize("name", PATIENTS)
def test_scans_of_a_patient_are_told_by_their_names(name):
    assert patient_of(name) == PATIENTS[name]
