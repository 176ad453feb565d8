"""The viewer's page and addresses: runs while they train, labelled scans slice by slice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from nicegui import ui

from keelnet.app.panels import LabelsPanel, RunPanel
from keelnet.app.shelf import Shelf
from keelnet.app.slices import labelled

LOOK_EVERY = 1.0  # seconds
LIST_EVERY = 5.0  # seconds; the folders below the shelf may be many
ICON = Path(__file__).parent / "static" / "icon.svg"
HEADER = """
<header><h1>keelnet explore</h1>
<nav aria-label="Pages"><a href="/">Explorer</a><a href="/runs" aria-current="page">Runs</a></nav>
<button type="button" id="theme">Dark or light</button></header>
"""
HEAD = """
<link rel="stylesheet" href="/explorer/shell.css"><link rel="stylesheet" href="/explorer/viewer.css">
<script type="module" src="/explorer/viewer.js"></script>
"""


def mount(app: FastAPI, shelf: Shelf, scans: Path | None) -> None:
    """Add the viewer to an application; what one visitor chose is kept for them alone.

    scans: the folder of the scans that ``keelnet segment`` read, to be seen below their labels.
    """

    def picture(request: Request) -> Response:
        query = request.query_params
        return _answered(
            lambda: Response(
                shelf.entry(query.get("run", "")).picture(query.get("name", "")).read_bytes(),
                media_type="image/png",
            )
        )

    def one_slice(request: Request) -> Response:
        return _answered(lambda: Response(_slice(shelf, scans, request), media_type="image/png"))

    def page(run: str = "") -> None:
        _Page(shelf, scans).build(run)

    app.get("/runs/picture", response_model=None)(picture)
    app.get("/runs/slice", response_model=None)(one_slice)
    ui.page("/runs", title="keelnet explore: runs", favicon=ICON)(page)
    ui.run_with(app, show_welcome_message=False, tailwind=False, dark=None)


def _answered(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except (ValueError, OSError) as error:  # a file may be gone between two looks
        return JSONResponse({"error": str(error)}, 400)


def _slice(shelf: Shelf, scans: Path | None, request: Request) -> bytes:
    query = request.query_params
    case = labelled(shelf.entry(query.get("run", "")), query.get("case", ""), scans)
    try:
        place, opacity = int(query.get("slice", "0")), float(query.get("opacity", "0.6"))
    except ValueError:
        raise ValueError("slice and opacity must be numbers") from None
    return case.picture(query.get("plane", "axial"), place, query.get("modality", "flair"), opacity)


class _Page:
    """What one visitor sees."""

    def __init__(self, shelf: Shelf, scans: Path | None) -> None:
        self.shelf = shelf
        self.scans = scans
        self.panel: RunPanel | LabelsPanel | None = None

    def build(self, asked: str) -> None:
        ui.add_head_html(HEAD)
        ui.html(HEADER, sanitize=False)
        with ui.element("main"):
            names = [entry.name for entry in self.shelf.entries()]
            if not names:
                ui.label(f"{self.shelf.root} holds no run yet; keelnet train digits makes one")
                ui.timer(LIST_EVERY, self.wait)
                return
            if asked and asked not in names:
                words = f"{asked} is no run folder below {self.shelf.root}; shown is the newest"
                ui.label(words).props('role="alert"')
            chosen = asked if asked in names else names[0]
            self.names = ui.select(
                names,
                value=chosen,
                label="Run, or labelled scans",
                on_change=lambda event: self.choose(event.value),
            ).classes("wide")
            self.state = ui.label("").props('role="status" id="state"')
            self.body = ui.element("div")
            self.show(chosen)
            ui.timer(LOOK_EVERY, self.look)
            ui.timer(LIST_EVERY, self.relist)

    async def wait(self) -> None:
        """The page begins anew with the first run."""
        if await asyncio.to_thread(self.shelf.entries):
            ui.navigate.reload()

    async def relist(self) -> None:
        """Runs that have come may be chosen; one that was removed stays chosen until another is."""
        names = [entry.name for entry in await asyncio.to_thread(self.shelf.entries)]
        if self.names.value not in names:
            names.append(self.names.value)
        if names != self.names.options:
            self.names.set_options(names)

    def choose(self, name: str) -> None:
        ui.navigate.history.replace(f"/runs?{urlencode({'run': name})}")
        self.show(name)

    def show(self, name: str) -> None:
        self.panel = None
        self.body.clear()
        try:
            entry = self.shelf.entry(name)
        except ValueError as error:
            self.state.set_text(str(error))
            return
        self.panel = RunPanel(entry) if entry.kind == "run" else LabelsPanel(entry, self.scans)
        with self.body:
            self.panel.build()
        self.look()

    def look(self) -> None:
        if self.panel is not None:
            self.state.set_text(self.panel.look())
