"""The door: this machine alone, or the token; no page of another origin."""

import asyncio

import pytest

from keelnet.app.guard import Guard

TOKEN = "s3cret-token"
COOKIE = "keelnet_token_8765"


async def behind(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def call(guard, host="127.0.0.1:8765", query="", kind="http", **headers):
    """Status (or the close of a socket) and headers of one request."""
    sent = []
    pairs = {"host": host, **headers}
    scope = {
        "type": kind,
        "path": "/x",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
    }

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    first = sent[0]
    return first.get("status", first.get("code")), {
        name.decode(): value.decode() for name, value in first.get("headers", [])
    }


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:1", "localhost", "[::1]:8765"])
def test_this_machine_comes_in(host):
    status, headers = call(Guard(behind), host)
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.3:8765", "", "[::1", "localhost:x"],
)
def test_a_name_that_was_pointed_at_this_machine_does_not(host):
    assert call(Guard(behind), host)[0] == 403


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 403),
        ({"query": "token="}, 403),
        ({"query": "token=wrong"}, 403),
        ({"cookie": f"{COOKIE}=wrong"}, 403),
        ({"cookie": f"{COOKIE}={TOKEN}"}, 200),
        ({"cookie": f"other=1; {COOKIE}={TOKEN}"}, 200),
        ({"cookie": "\x01=;;"}, 403),
        ({"cookie": f'prefs={{"a": 1}}; {COOKIE}={TOKEN}'}, 200),
        ({"cookie": f"a=b c; {COOKIE}={TOKEN}"}, 200),
        ({"cookie": f"n=café; {COOKIE}={TOKEN}"}, 200),
        ({"cookie": f"{COOKIE}=old;{COOKIE}={TOKEN}"}, 200),
        ({"cookie": f"keelnet_token_8766={TOKEN}"}, 403),
        ({"cookie": f"{COOKIE}x={TOKEN}; {COOKIE}"}, 403),
        ({"host": "[::1", "query": f"token={TOKEN}"}, 403),
        ({"host": "[::1", "cookie": f"{COOKIE}={TOKEN}"}, 403),
        ({"query": f"token={TOKEN}&depth=3"}, 303),
    ],
)
def test_others_need_the_token(changes, status):
    found, headers = call(Guard(behind, TOKEN), **{"host": "192.168.0.7:8765", **changes})
    assert found == status
    if status == 303:
        assert headers["location"] == "/x?depth=3" and TOKEN not in headers["location"]
        assert f"{COOKIE}={TOKEN};" in headers["set-cookie"] and "HttpOnly" in headers["set-cookie"]


def test_a_socket_is_opened_by_the_page_itself_alone():
    own = {"origin": "http://127.0.0.1:8765"}
    assert call(Guard(behind), kind="websocket", **own)[0] == 200
    assert call(Guard(behind), kind="websocket", origin="http://evil.example")[0] == 1008
    assert call(Guard(behind, TOKEN), kind="websocket", **own)[0] == 1008


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8765", 200),
        ("https://127.0.0.1:8765", 200),  # behind a proxy that encrypts
        ("http://evil.example", 403),
        ("http://127.0.0.1:8766", 403),
        ("null", 403),
        ("http://[::1", 403),
    ],
)
@pytest.mark.parametrize("token", [None, TOKEN])
def test_another_page_reads_nothing(origin, status, token):
    """NiceGUI polls by ordinary requests where there is no socket, and lets any origin read the answer."""
    cookie = {"cookie": f"{COOKIE}={TOKEN}"}
    assert call(Guard(behind, token), origin=origin, **cookie)[0] == status


@pytest.mark.parametrize(
    ("host", "sources"),
    [
        ("localhost:8765", ["'self'", "ws://localhost:8765", "wss://localhost:8765"]),
        ("[::1]:8765", ["'self'", "ws://[::1]:8765", "wss://[::1]:8765"]),
        ("evil.example; script-src *", ["'self'"]),
    ],
)
def test_sockets_go_to_the_host_of_the_page_alone(host, sources):
    _, headers = call(Guard(behind), host)
    directives = [each.split() for each in headers["content-security-policy"].split(";")]
    assert {name: values for name, *values in directives}["connect-src"] == sources


def test_a_proxy_that_changed_the_host_is_told_what_to_keep():
    changed = {"host": "127.0.0.1", "origin": "http://127.0.0.1:8080"}
    words = Guard(behind)._refusal({}, changed)
    assert "a proxy changed the Host header" in words and len(words.encode()) <= 123  # of a socket
    assert Guard(behind)._refusal({}, {**changed, "host": "127.0.0.1:8080"}) is None


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("same-origin", "no-cors", 200),
        ("none", "navigate", 200),
        ("cross-site", "navigate", 200),  # a link was clicked
        ("cross-site", "no-cors", 403),  # an image in another page
        ("same-site", "no-cors", 403),  # another port of this machine
    ],
)
def test_another_page_shows_nothing_of_this_one(site, mode, status):
    """Such a request names no origin; whether its image comes would tell which cases there are."""
    asked = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    found, headers = call(Guard(behind), **asked)
    assert found == status and headers["cross-origin-resource-policy"] == "same-origin"


def test_the_link_works_where_it_is_clicked_on_a_page_of_another_site():
    """Browsers send no strict cookie with what follows such a click, nor with where it leads."""
    _, headers = call(Guard(behind, TOKEN), query=f"token={TOKEN}")
    assert "SameSite=Lax" in headers["set-cookie"]
