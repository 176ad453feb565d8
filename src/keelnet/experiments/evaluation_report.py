"""The page of an evaluation: one self-contained HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keelnet.experiments import evaluation_pictures as pictures
from keelnet.experiments.evaluated import Evaluated
from keelnet.experiments.pages import Picture, page

TITLES = {
    "dice": "Dice",
    "hd95": "HD95, mm",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "lesion_dice": "lesion-wise Dice",
    "lesion_hd95": "lesion-wise HD95, mm",
    "predicted_ml": "predicted, ml",
    "true_ml": "true, ml",
}


def evaluation_report(
    run: str, done: Sequence[Evaluated], summary: Mapping[str, Any], shown: Mapping[str, bytes]
) -> str:
    """The page; ``shown`` are the pictures of the worst, the median and the best case, in this order."""
    by_name = {each.name: each for each in done}
    ranks = {
        1: ("The case",),
        2: ("The worst case", "The best case"),
        3: ("The worst case", "The median case", "The best case"),
    }[len(shown)]
    cases = [
        {
            "rank": rank,
            "of": by_name[name],
            "picture": Picture.of(
                content,
                f"{rank}, {name}: FLAIR, T1ce, the labels given, those predicted, and the entropy of the prediction.",
            ),
        }
        for rank, (name, content) in zip(ranks, shown.items(), strict=True)
    ]
    values = {
        "run": run,
        "summary": summary,
        "titles": TITLES,
        "cases": cases,
        "done": sorted(done, key=lambda each: each.mean_dice),
        "dice": Picture.of(pictures.dice_picture(done), "Dice of every case, by region."),
        "volumes": Picture.of(
            pictures.volume_picture(done),
            "Predicted against true volumes; on the dashed line they agree.",
        ),
    }
    return page("evaluation.html", values, {"figure": _figure})


def _figure(value: float | None, digits: int = 3) -> str:
    """A number for a cell; a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.1f}"
