"""Who may talk to the page: this machine alone, or whoever holds the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
COOKIE = "keelnet_token"
# Nothing is fetched from elsewhere, nor sent there, whatever a dependency may come to do. NiceGUI needs inline
# scripts and compiles its templates in the browser.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; frame-ancestors 'none'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Guard:
    """An application behind a door. token None: only names of this machine in the Host header (a page elsewhere
    could otherwise point a name of its own at it); else the token, once in the address, from then on in a cookie.

    Web sockets are taken from the page's own origin alone, since browsers let any page open one.
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
        reason = self._refusal(scope, headers)
        if reason is not None:
            await _refuse(scope, receive, send, reason)
        elif self.token is not None and scope["type"] == "http" and "token" in _query(scope):
            await self._welcome(scope, send)
        else:
            await self.application(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str | None:
        host = headers.get("host", "")
        if self.token is None:
            if urlsplit(f"//{host}").hostname not in LOOPBACK:
                return "this page is for this machine alone; keelnet explore --host lets others in, by a token"
        elif not self._knows(scope, headers):
            return "open the address that keelnet explore printed: it ends in the token"
        origin = headers.get("origin")
        if scope["type"] == "websocket" and origin is not None and urlsplit(origin).netloc != host:
            return "another page asked for this one's data"
        return None

    def _knows(self, scope: Scope, headers: dict[str, str]) -> bool:
        assert self.token is not None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given = (_query(scope).get("token", ""), "" if cookie is None else cookie.value)
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given)

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """The token goes from the address, which is copied and remembered, into a cookie."""
        left = {name: value for name, value in _query(scope).items() if name != "token"}
        place = scope["path"] + ("?" + urlencode(left) if left else "")
        cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
        await _answer(send, 303, {"location": place, "set-cookie": cookie}, "")


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sent


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # a socket is refused once it has asked to be opened
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
    else:
        await _answer(
            send, 403, {"content-type": "text/plain; charset=utf-8"}, f"keelnet: {reason}\n"
        )


async def _answer(send: Send, status: int, headers: dict[str, str], text: str) -> None:
    body = text.encode()
    every = [(name.encode(), value.encode()) for name, value in {**headers, **HEADERS}.items()]
    every.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body})
