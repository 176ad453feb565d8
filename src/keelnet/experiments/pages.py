"""Pages: self-contained HTML files that open offline."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

import jinja2

from keelnet.experiments.provenance import machine


@dataclass(frozen=True)
class Picture:
    """A PNG inside a page, with the sentence under it and the words for those who do not see it."""

    source: str
    caption: str

    @staticmethod
    def of(content: bytes, caption: str) -> Picture:
        data = base64.b64encode(content).decode()
        return Picture(f"data:image/png;base64,{data}", caption)


def page(
    template: str,
    values: Mapping[str, Any],
    filters: Mapping[str, Callable[..., str]] | None = None,
) -> str:
    """A template of this package with its values, the machine and the time."""
    folder = files("keelnet.experiments")
    loader = jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=loader
    )
    environment.filters.update(filters or {})
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return environment.get_template(template).render(values, machine=machine(), made=made)
