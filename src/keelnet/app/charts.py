"""Training curves and tables of a run, as the page draws them."""

from __future__ import annotations

from html import escape
from typing import Any, Literal

from keelnet.app.shelf import Entry
from keelnet.experiments.millilitres import shown
from keelnet.experiments.pictures import LINES

Kind = Literal["terms", "scores"]
TITLES: dict[Kind, str] = {"terms": "Objective, term by term", "scores": "Validation scores"}
GREY = "#7d8791"  # readable on a light and on a dark page
STYLES = ("solid", "dashed", "dotted")


def curve_options(entry: Entry, kind: Kind) -> dict[str, Any]:
    """Options of ECharts: one line a term of the objective (logarithmic), or a score, by epoch."""
    history = entry.history()
    names = list(dict.fromkeys(name for line in history for name in line.get(kind, {})))
    values = [value for line in history for value in _numbers(line.get(kind, {})).values()]
    logarithmic = kind == "terms" and bool(values) and min(values) > 0
    text = {"color": GREY}
    return {
        "animation": False,
        "textStyle": text,
        "color": list(LINES),
        "title": {"text": TITLES[kind], "textStyle": {"color": GREY, "fontSize": 14}},
        "tooltip": {"trigger": "axis"},
        "legend": {"data": names, "bottom": 0, "textStyle": text},
        "grid": {"left": 60, "right": 20, "top": 36, "bottom": 64},
        "xAxis": {
            "type": "value",
            "name": "epoch",
            "nameLocation": "middle",
            "nameGap": 24,
            "minInterval": 1,
            "min": "dataMin",
            "axisLabel": text,
        },
        "yAxis": {"type": "log" if logarithmic else "value", "scale": True, "axisLabel": text},
        "series": [
            {
                "name": name,
                "type": "line",
                "showSymbol": len(history) < 40,
                "lineStyle": {"type": STYLES[index % len(STYLES)]},
                "data": [
                    [line["epoch"], _numbers(line.get(kind, {})).get(name)] for line in history
                ],
            }
            for index, name in enumerate(names)
        ],
    }


def score_table(entry: Entry) -> str:
    """``scores.json`` as an HTML table; nothing while there is none."""
    scores = entry.table("scores.json")
    if not scores:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{escape(_words(value))}</td></tr>'
        for name, value in scores.items()
    )
    return f"<table><caption>Scores of the best epoch</caption>{rows}</table>"


def volume_table(entry: Entry, case: str) -> str:
    """ml by class and by region of a labelled case, as an HTML table."""
    found = entry.labels().get(case)
    volumes = {} if found is None else found.about
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{shown(value, 2)}</td></tr>'
        for part in ("classes_ml", "regions_ml")
        for name, value in volumes.get(part, {}).items()
    )
    return f"<table><caption>Volumes of {escape(case)}</caption>{rows}</table>"


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_words(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
