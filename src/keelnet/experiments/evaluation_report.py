"""The page of an evaluation: one self-contained HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2

from keelnet.experiments import evaluation_pictures as pictures
from keelnet.experiments.report import Picture, machine

if TYPE_CHECKING:
    from keelnet.experiments.evaluate import Evaluated

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
    template = files("keelnet.experiments").joinpath("evaluation.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["figure"] = _figure
    return environment.from_string(template).render(
        run=run,
        summary=summary,
        titles=TITLES,
        cases=cases,
        done=sorted(done, key=lambda each: each.mean_dice),
        dice=Picture.of(pictures.dice_picture(done), "Dice of every case, by region."),
        volumes=Picture.of(
            pictures.volume_picture(done),
            "Predicted against true volumes; on the dashed line they agree.",
        ),
        machine=machine(),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _figure(value: float | None, digits: int = 3) -> str:
    """A number for a cell; a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.1f}"
