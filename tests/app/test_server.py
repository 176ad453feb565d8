"""The server: many ask at once, a port that is taken, a folder that is no run, visitors from elsewhere."""

import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import Request

from keelnet.app import server
from keelnet.app.presets import PRESETS
from keelnet.cli import invoke

pytestmark = pytest.mark.filterwarnings("ignore::keelnet.propagation.StabilityWarning")


def asked(query):
    return server._picture(Request({"type": "http", "query_string": query.encode()}))


@pytest.fixture
def refused(capsys):
    """The one line that bad use gives; exit code 2."""

    def line_of(*arguments):
        assert invoke(["explore", "--no-browser", *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        (line,) = printed.err.strip().splitlines()
        assert printed.out == "" and line.startswith("keelnet: ")
        return line

    return line_of


def test_visitors_at_the_same_time_get_their_own_pictures():
    queries = [preset.scene.as_query() for preset in PRESETS if preset.scene.depth <= 100] * 2
    alone = [asked(query).body for query in queries]
    with ThreadPoolExecutor(8) as visitors:
        together = [answer.body for answer in visitors.map(asked, queries)]
    assert together == alone and len(set(alone)) > 8


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("step_size=0", "step size h"),
        ("across=x", "across, up and side must be whole numbers"),
        ("side=1000000", "side must lie between 50 and 2000 pixels"),
        ("across=0&up=0", "a plane has two of the coordinates"),
        ("activation=relu&depth=10000&kernel=9,0;0,9&step_size=9", "not finite after layer"),
    ],
)
def test_a_refusal_says_why(query, words):
    answer = asked(query)
    assert answer.media_type == "application/json" and words in answer.body.decode()


def test_a_port_in_use_is_one_line(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("--port", port)
    assert line == f"keelnet: port {port} is in use; choose another with --port"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["FOLDER"], "is no run folder and holds none"),
        (["FOLDER/absent"], "is no folder"),
        (["--scans", "FOLDER/absent"], "is no folder of scans"),
        (["--host", "203.0.113.7"], "cannot be listened on"),
        (["--port", "99999"], "--port"),
    ],
)
def test_bad_use_is_one_line(tmp_path, refused, arguments, words):
    assert words in refused(*[each.replace("FOLDER", str(tmp_path)) for each in arguments])


BROWSER = """
import os, urllib.request, webbrowser

def opened(address):
    with urllib.request.urlopen(address + "choices.json", timeout=20) as answer:
        print("opened", answer.status, flush=True)
    os._exit(0)

webbrowser.open = opened
from keelnet.cli import main
main()
"""


def test_a_browser_that_holds_its_caller_up_gets_the_page(tmp_path):
    command = [sys.executable, "-c", BROWSER, "explore", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "opened 200" in done.stdout, done.stderr


def test_others_come_in_by_the_token_alone(tmp_path):
    command = [sys.executable, "-m", "keelnet", "explore", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        [*command, "--host", "0.0.0.0"], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            port, token = re.search(r":(\d+)/\?token=(\S+)", process.stdout.readline()).groups()
            page = f"http://127.0.0.1:{port}/choices.json"
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(page)
            cookie = {"Cookie": f"keelnet_token_{port}={token}"}
            with urllib.request.urlopen(urllib.request.Request(page, headers=cookie)) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
    assert len(token) >= 24
