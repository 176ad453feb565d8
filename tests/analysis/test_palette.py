"""The palette: a colour is typed once, and the page draws in the colours of the library's pictures."""

import re
from pathlib import Path

import pytest

import keelnet
from keelnet.analysis import palette
from keelnet.app.drawing import COLOURS

ROOM = Path(keelnet.__file__).parent
NAMES = [name for name in vars(palette) if name.isupper()]


@pytest.mark.parametrize("name", NAMES)
def test_a_colour_is_typed_once(name):
    typed = re.compile(f"[\"']{getattr(palette, name)}[\"']", re.IGNORECASE)
    files = [path for path in ROOM.rglob("*.py") if typed.search(path.read_text(encoding="utf-8"))]
    assert files == [Path(palette.__file__)]


def test_the_page_draws_in_the_colours_of_the_pictures():
    script = (ROOM / "app" / "static" / "brush.js").read_text(encoding="utf-8")
    (line,) = re.findall(r"^const COLOURS = \[(.*)\];$", script, flags=re.MULTILINE)
    assert tuple(re.findall(r'"(#\w+)"', line)) == COLOURS
