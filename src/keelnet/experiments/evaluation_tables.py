"""The tables of an evaluation: a row a case and region, and what all cases have in common."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from keelnet.analysis.regions import RegionScore
from keelnet.data.conventions import REGIONS
from keelnet.experiments.evaluated import Evaluated

METRICS = tuple(each.name for each in fields(RegionScore))


def summary_of(done: Sequence[Evaluated], refused: dict[str, str]) -> dict[str, Any]:
    """Means, medians and quartiles over the cases; what is undefined in a case is left out and counted."""
    regions = {
        name: {
            metric: spread([float(getattr(each.regions[name], metric)) for each in done])
            for metric in METRICS
        }
        for name in REGIONS
    }
    on_mimics = [each.mimics_ml for each in done if each.mimics_ml is not None]
    return {
        "cases": len(done),
        "trained_on": sum(each.trained_on for each in done),
        "refused": refused,
        "mean_dice": spread([each.mean_dice for each in done]),
        "regions": regions,
        "entropy_bits": spread([each.entropy for each in done]),
        "growth": spread([each.sensitivity.growth for each in done]),
        "growth_converged": sum(each.sensitivity.converged for each in done),
        "mimics_ml": spread(on_mimics) if on_mimics else None,
    }


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """n, undefined, mean, median, q1, q3, least and most of what is finite; None where nothing is."""
    known = [value for value in values if math.isfinite(value)]
    numbers: dict[str, float | int | None] = {
        "n": len(known),
        "undefined": len(values) - len(known),
    }
    names = ("mean", "median", "q1", "q3", "least", "most")
    if not known:
        return numbers | dict.fromkeys(names)
    q1, median, q3 = np.percentile(known, (25, 50, 75))
    found = (np.mean(known), median, q1, q3, min(known), max(known))
    return numbers | {name: float(value) for name, value in zip(names, found, strict=True)}


def as_table(done: Sequence[Evaluated]) -> str:
    """cases.csv: a row a case and region; empty where a score is undefined."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            "case",
            "region",
            *METRICS,
            "mimics_ml",
            "entropy_bits",
            "growth",
            "growth_converged",
            "flip",
            "trained_on",
        ]
    )
    for each in done:
        for region, score in each.regions.items():
            values = [_cell(value) for value in asdict(score).values()]
            moved = each.sensitivity
            own = (
                each.mimics_ml,
                each.entropy,
                moved.growth,
                float(moved.converged),
                moved.flip,
                float(each.trained_on),
            )
            writer.writerow([each.name, region, *values, *map(_cell, own)])
    return file.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def cases_of(table: Path) -> list[str]:
    """The cases of an earlier cases.csv; none where there is none, or one that is not of `as_table`."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            ours = {"case", "region", "dice"} <= {*(rows.fieldnames or ())}  # others list scans
            names = dict.fromkeys(row["case"] for row in rows) if ours else {}
    except (OSError, ValueError, csv.Error):
        return []
    return [name for name in names if name and not {"/", "\\"} & {*name}]
