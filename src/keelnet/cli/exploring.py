"""The command that shows a page: explore."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from keelnet.cli.console import say


def explore(
    runs: Annotated[
        Path | None,
        typer.Argument(
            help="A run's folder, or one that holds runs, for the viewer. Default: runs.",
            metavar="[RUNS]",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Where the page is served; 0: any free port.", min=0, max=65535)
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(
            help="Let others in, through this address of the machine (0.0.0.0: all), by a random token."
        ),
    ] = "127.0.0.1",
    scans: Annotated[
        Path | None,
        typer.Option(
            help="The folder of scans that keelnet segment read, to see below the labels."
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Explore stability in the plane, and look at runs, on a page of this machine."""
    from keelnet.app.server import serve
    from keelnet.app.shelf import Shelf

    if scans is not None and not scans.is_dir():
        raise ValueError(f"{scans} is no folder of scans")
    shelf = Shelf(Path("runs")) if runs is None else Shelf.asked(runs)

    def ready(address: str) -> None:
        say(f"open {address} (stop with Ctrl-C)")
        if browser:
            # A browser of the terminal (lynx, w3m) holds its caller up, and the page is served only then.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    serve(host, port, shelf, scans, ready)


COMMANDS = ((explore, "keelnet explore --port 8765"),)
