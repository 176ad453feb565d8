"""Patients: whose scan a case is, as far as its name tells."""

from __future__ import annotations

import re

# What scans of one patient are called, one after the other: ses-1, time1, Timepoint_2.
SESSION = r"(?:ses-[A-Z0-9]|time(?:point)?_?\d)"
# Scans of one patient at two dates: BraTS-GLI-00005-100 and -101, UPENN-GBM-00001_11 and _21, UCSF-PDGM-0429 and
# UCSF-PDGM-0429_FU003d, RHUH-0001_0 and _1, sub-01_ses-1 and sub-01_ses-2, p1_ses-1 and p1_ses-2, 100102_time1 and
# 100102_time2, PatientID_0003_Timepoint_1 and _2.
_DATED = re.compile(
    r"(?P<patient>BraTS(?:-[A-Z]+)+-\d+(?=-\d)|UPENN-GBM-\d+(?=_\d)|UCSF-PDGM-\d+(?=_FU)|RHUH-\d+(?=_\d)|"
    rf"sub-[A-Z0-9]+(?=_[A-Z]+-)|.+?(?=_{SESSION}))[-_].+",
    re.IGNORECASE,
)


def patient_of(name: str) -> str:
    """Whose scan it is: in many sets names end with the date of the scan, or its number."""
    dated = _DATED.fullmatch(name)
    return dated["patient"] if dated else name
