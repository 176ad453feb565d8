"""The README's code runs, its commands exist, its map and its links are true."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from test_architecture import FLOORS
from typer.main import get_command

from keelnet.cli import app
from keelnet.experiments.recipes import recipe_named

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def printed(as_a_user, capsys):
    """What a piece of code prints, run with names of its own."""

    def of(code):
        exec(code, {"__name__": "example"})
        return capsys.readouterr().out

    return of


def test_the_python_runs(printed):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    out = printed(code)
    assert "StepBound" in out and "torch.Size([8, 10])" in out


def test_the_example_of_a_diagnosis_runs_and_prints_what_it_says(printed):
    page = (ROOT / "docs" / "stability.md").read_text()
    (code,) = (
        each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import" in each
    )
    lines = printed(code).splitlines()
    assert "largest: block 2 multiplies a perturbation by 1.500" in lines
    assert "2 1.5" in lines


def test_the_example_of_extending_runs(printed):
    page = (ROOT / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "Heun" in printed(code)


def test_every_command_line_is_one_that_exists():
    command = get_command(app)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    calls = [line.split("#")[0].split() for line in lines if line.startswith("keelnet")]
    assert len(calls) >= 4
    for _, name, *arguments in calls:
        known = command.commands[name]
        if hasattr(known, "commands"):  # such as data: its first word names the command
            known = known.commands[arguments[0]]
        options = {option for parameter in known.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= options
        if name == "train":
            settings = [b for a, b in pairwise(arguments) if a == "--set"]
            recipe_named(arguments[0]).with_settings(settings)


def test_make_has_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check", "format"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_map_is_the_house():
    (tree,) = re.findall(r"```\n(src/keelnet/.*?)```", README, flags=re.DOTALL)
    rooms = set(re.findall(r"[├└]── (\S+)", tree))
    package = ROOT / "src" / "keelnet"
    found = {f"{item.parent.name}/" for item in package.glob("*/__init__.py")}
    assert rooms == found
    for folder in ("tests", "benchmarks", "docs"):
        assert f"{folder}/" in tree and (ROOT / folder).is_dir()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """What a heading can be reached by: lower case, spaces as hyphens, without punctuation."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_contributing_has_the_floors_that_are_enforced():
    said = (
        (ROOT / "CONTRIBUTING.md").read_text().partition("Rooms are floors:")[2].partition(". ")[0]
    )
    found = {}
    for group in said.split(";"):
        rooms = re.findall(r"`(\w+)`", group)
        found |= dict.fromkeys(rooms, int(group.split()[-1]))
    assert found == {room: floor for room, floor in FLOORS.items() if room != "__main__"}


def test_every_integrator_has_its_line_in_the_glossary():
    from keelnet import propagation

    glossary = (ROOT / "docs" / "glossary.md").read_text()
    public = [getattr(propagation, name) for name in propagation.__all__]
    names = [
        each.__name__
        for each in public
        if isinstance(each, type)
        and issubclass(each, propagation.Integrator)
        and each is not propagation.Integrator
    ]
    assert len(names) >= 6
    for name in names:
        assert f"`{name}`" in glossary
