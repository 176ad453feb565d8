"""The server of the page: its addresses, each a function of what the address says. No state but the cache of files."""

from __future__ import annotations

import contextlib
import errno
import gc
import secrets
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from keelnet.app import viewer
from keelnet.app.exports import EXPORTS
from keelnet.app.guard import LOOPBACK, Guard
from keelnet.app.message import Picture
from keelnet.app.presets import PRESETS
from keelnet.app.scene import CHOICES, MOST_FEATURES, MOVES, SQUARE, Scene
from keelnet.app.shelf import Shelf
from keelnet.propagation import StabilityWarning

STATIC = Path(__file__).parent / "static"
# One picture at a time, whoever asks: torch's forward derivatives and matplotlib's settings belong to the whole
# process, not to a thread.
ONE_AT_A_TIME = threading.Lock()


def serve(
    host: str,
    port: int,
    shelf: Shelf,
    scans: Path | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Show the page until it is interrupted; ``ready`` is given its address once it can be opened.

    host: loopback, or an interface that others reach: then the address ends in a random token, without which
    nothing is answered. port 0: any free one. shelf and scans: what the viewer shows.
    Raises ValueError for a port that is in use and a host that is not this machine's.
    """
    listener = _listener(host, port)
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    # Two threads that wait for each other at every layer lose more than they win on states this small.
    torch.set_num_threads(1)
    server = uvicorn.Server(
        uvicorn.Config(
            Guard(application(shelf, scans), token), log_level="warning", access_log=False
        )
    )
    # The page says it in its own words. Once for the process: Python's filters belong to no thread.
    warnings.simplefilter("ignore", StabilityWarning)
    threading.Thread(target=_warm, daemon=True).start()
    ready(_address(host, listener.getsockname()[1], token))
    with contextlib.suppress(KeyboardInterrupt):  # how a page that is shown until then ends
        server.run(sockets=[listener])


def application(shelf: Shelf, scans: Path | None = None) -> FastAPI:
    """All addresses; not yet guarded."""
    app = FastAPI(title="keelnet explore", docs_url=None, redoc_url=None, openapi_url=None)
    app.get("/", include_in_schema=False)(_page)
    app.get("/favicon.ico")(_icon)
    app.get("/choices.json")(_choices)
    app.get("/picture")(_picture)
    app.get("/export/{name}")(_export)
    app.mount("/explorer", StaticFiles(directory=STATIC), name="explorer")
    viewer.mount(app, shelf, scans)
    return app


def _page() -> FileResponse:
    return FileResponse(STATIC / "explorer.html")


def _icon() -> FileResponse:
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


def _choices() -> JSONResponse:
    """What the page's lists hold, and the presets."""
    presets = [
        {
            "key": each.key,
            "title": each.title,
            "hint": each.hint,
            "query": each.scene.as_query(),
            "across": each.plane[0],
            "up": each.plane[1],
        }
        for each in PRESETS
    ]
    return JSONResponse(
        {
            "choices": CHOICES,
            "moves": MOVES,
            "square": SQUARE,
            "most_features": MOST_FEATURES,
            "presets": presets,
        }
    )


def _picture(request: Request) -> Response:
    """The message, or in JSON why there is none. Both with status 200: browsers report any other as an error."""
    try:
        picture = _asked(request)
        with ONE_AT_A_TIME:
            content = picture.as_bytes()
        return Response(content, media_type="application/octet-stream")
    except ValueError as error:
        return JSONResponse({"error": str(error)})


def _export(name: str, request: Request) -> Response:
    if name not in EXPORTS:
        return JSONResponse(
            {"error": f"unknown export {name}; known are {', '.join(EXPORTS)}"}, 404
        )
    try:
        kind, write = EXPORTS[name]
        picture = _asked(request)
        with ONE_AT_A_TIME:
            content = write(picture)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 400)
    return Response(
        content,
        media_type=kind,
        headers={"content-disposition": f'attachment; filename="keelnet-{name}"'},
    )


def _asked(request: Request) -> Picture:
    query = dict(request.query_params)
    drawn = {"across": "0", "up": "1", "side": "600"}
    try:
        across, up, side = (int(query.get(name, usual)) for name, usual in drawn.items())
    except ValueError:
        raise ValueError("across, up and side must be whole numbers") from None
    return Picture(Scene.from_query(query), (across, up), side)


def _warm() -> None:
    """Compile and load what the first picture needs while the browser still opens."""
    for preset in PRESETS[:1] + PRESETS[-1:]:
        with ONE_AT_A_TIME:
            Picture(preset.scene).as_bytes()
    # The libraries' own objects stay: looking through them all took 170 ms, every thirtieth picture.
    gc.collect()
    gc.freeze()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use; choose another with --port") from None
        raise ValueError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}"
        ) from None
    return listener


def _address(host: str, port: int, token: str | None) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
