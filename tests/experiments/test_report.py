"""The report: one file, self-contained, with every part and the command that made it."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from keelnet.experiments.memory import DEPTHS, STRATEGIES, strategy_memory
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.report import report
from keelnet.experiments.reproduce import reproduce
from keelnet.experiments.runs import train


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    reproduce(folder / "reproduce")
    digits = replace(recipe_named("digits"), width=4, depth=2, epochs=1, batch=512)
    tissue = replace(recipe_named("tissue"), width=(4, 4), depth=(1, 1), epochs=1, batch=24)
    list(train(digits, folder / "digits"))
    list(train(tissue, folder / "tissue"))
    return report(folder, "runs/demo")


class Outside(HTMLParser):
    """Collects whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        for name in ("src", "href", "data", "poster", "srcset"):
            if name in given and not given[name].startswith("data:"):
                self.fetched.append(given[name])
        if tag == "img":
            self.pictures += 1
            assert given["alt"]


def test_nothing_is_fetched(page):
    seen = Outside()
    seen.feed(page)
    assert seen.fetched == []
    assert seen.pictures == 4 + 1 + 2 + 1  # the source's, digits, tissue, memory
    assert "@import" not in page and "<script" not in page
    assert not re.search(r"url\((?!data:)", page)


def test_every_part_names_its_command(page):
    for command in (
        "keelnet demo --out runs/demo",
        "keelnet reproduce --out runs/demo/reproduce",
        "keelnet train digits --out runs/demo/digits",
        "keelnet train tissue --out runs/demo/tissue",
        "strategy_memory()",
    ):
        assert command in page


def test_failed_verdicts_are_shown_as_such(page):
    assert page.count("✗ does not hold") == 3
    assert page.count("✓ holds") == 25


def test_memory_is_flat_only_under_reversible():
    kept = {(row.strategy, row.depth): row.bytes for row in strategy_memory(side=8, batch=1)}
    assert set(kept) == {(s.__name__, depth) for s in STRATEGIES for depth in DEPTHS}
    assert kept["reversible", 128] == kept["reversible", 8]
    assert kept["store_all", 128] > 10 * kept["store_all", 8]
    assert kept["checkpointed", 8] < kept["checkpointed", 128] < 0.2 * kept["store_all", 128]
