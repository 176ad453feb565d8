"""Who may talk to the page: this machine alone, or whoever holds the token."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
COOKIE = "keelnet_token_{port}"  # a browser keeps one jar for all ports of a host
# Nothing is fetched from elsewhere, nor sent there, whatever a dependency may come to do. NiceGUI needs inline
# scripts and compiles its templates in the browser.
POLICY = (
    "frame-ancestors 'none'; form-action 'self'; default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; connect-src 'self'"
)
HEADERS = {
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Guard:
    """An application behind a door. token None: only names of this machine in the Host header (a page elsewhere
    could otherwise point a name of its own at it); else the token, once in the address, from then on in a cookie.

    Whoever names an origin must name the page's own: browsers let any page open a web socket, and NiceGUI
    lets any origin read what it polls instead.
    """

    application: Application
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.application(scope, receive, send)
            return
        headers = {
            name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        reason = self._refusal(scope, headers)
        if reason is not None:
            await _refuse(scope, receive, send, reason, host)
        elif self.token is not None and scope["type"] == "http" and "token" in _query(scope):
            await self._welcome(scope, send, host)
        else:
            await self.application(scope, receive, _with_headers(send, host))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str | None:
        own = _names(f"//{headers.get('host', '')}")
        if own[0] is None:
            return "the request names no host"
        if self.token is None:
            if own[0] not in LOOPBACK:
                return "this page is for this machine alone; keelnet explore --host lets others in, by a token"
        elif not self._knows(scope, headers):
            return "open the address that keelnet explore printed: it ends in the token"
        origin = headers.get("origin")
        if origin is not None and _names(origin) != own:
            return "another page asked for this one's data, or a proxy changed the Host header (keep it, with its port)"
        # A picture that another page embeds names no origin, but whether it comes tells what there is.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site in ("cross-site", "same-site") and mode != "navigate":
            return "another page asked for this one's data"
        return None

    def _knows(self, scope: Scope, headers: dict[str, str]) -> bool:
        assert self.token is not None
        # By hand: http.cookies gives up all cookies where one, of whatever else runs on this host, is not to its taste.
        pairs = [pair.partition("=") for pair in headers.get("cookie", "").split(";")]
        own = _cookie(headers.get("host", ""))
        given = [value.strip() for name, _, value in pairs if name.strip() == own]
        given.append(_query(scope).get("token", ""))
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given)

    async def _welcome(self, scope: Scope, send: Send, host: str) -> None:
        """The token goes from the address, which is copied and remembered, into a cookie."""
        left = {name: value for name, value in _query(scope).items() if name != "token"}
        place = scope["path"] + ("?" + urlencode(left) if left else "")
        # Strict is not sent after this redirect where the link was clicked on a page of another site.
        cookie = f"{_cookie(host)}={self.token}; HttpOnly; SameSite=Lax; Path=/"
        await _answer(send, 303, {"location": place, "set-cookie": cookie}, "", host)


def _names(address: str) -> tuple[str | None, int | None]:
    """Host and port of an address; (None, None) where it is none."""
    try:
        parts = urlsplit(address)
        return parts.hostname, parts.port
    except ValueError:
        return None, None


def _cookie(host: str) -> str:
    """Its name for visitors who ask for this host and port."""
    return COOKIE.format(port=_names(f"//{host}")[1] or 80)


def _headers(host: str) -> dict[str, str]:
    """Sockets are opened to this host alone; not every browser counts them to 'self'."""
    own = f" ws://{host} wss://{host}" if re.fullmatch(r"[\w.\-:\[\]]+", host, re.ASCII) else ""
    return {"content-security-policy": POLICY + own, **HEADERS}


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))


def _with_headers(send: Send, host: str) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in _headers(host).items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sent


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str, host: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # a socket is refused once it has asked to be opened
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
    else:
        kind = {"content-type": "text/plain; charset=utf-8"}
        await _answer(send, 403, kind, f"keelnet: {reason}\n", host)


async def _answer(send: Send, status: int, headers: dict[str, str], text: str, host: str) -> None:
    body = text.encode()
    every = [
        (name.encode(), value.encode()) for name, value in {**headers, **_headers(host)}.items()
    ]
    every.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body})
