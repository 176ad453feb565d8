"""Options that stand for a setting: what is given twice is refused in one sentence, and nothing is written."""

import dataclasses
from pathlib import Path

import pytest
from scans import write_case

from keelnet.cli import invoke
from keelnet.data.cases import find_cases
from keelnet.experiments import runs, table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "train digits --epochs 3 --set epochs=5",
            "epochs is given by --set epochs and by --epochs",
        ),
        ("train digits --minutes 3 --set minutes=5", "by --set minutes and by --minutes"),
        ("train tumour --data . --set folder=.", "folder is given by --set folder and by --data"),
        ("train tumour --labels msd --set labels=msd", "by --set labels and by --labels"),
        ("train tumour --skip-bad --set skip_bad=false", "by --set skip_bad and by --skip-bad"),
        ("table peaks --minutes 1 --set minutes=2", "by --set minutes and by --minutes"),
        ("table mnist --data . --set folder=.", "by --set folder and by --data"),
        ("table peaks --set seed=5", "varies seed itself: choose with --seeds, not with --set"),
        ("table peaks --set architecture=residual", "choose with --architectures, not with --set"),
        ("table peaks --sweep seed=5,6", "varies seed itself: choose with --seeds"),
        ("table peaks --sweep architecture=residual,parabolic", "choose with --architectures"),
        ("table peaks --sweep depth=2,4 --set depth=3", "by --set depth and by --sweep"),
        ("table peaks --sweep minutes=1,2 --minutes 3", "by --minutes and by --sweep"),
        ("table --from . --seeds 2", "not both"),
        ("table --from . --fixed-step", "not both"),
        ("table --from . --minutes 0", "not both"),
    ],
)
def test_what_is_given_twice_is_refused(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert invoke(arguments.split()) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    ["train tumour --data {}", "train tumour --set folder={}", "table mnist --data {}"],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_linked_table_is_read_from_where_it_is_linked(arguments, whole, tmp_path, monkeypatch):
    """As `data check` reads it: its cells are relative to the link."""
    write_case(tmp_path / "mine", "a")
    words = ("flair", "t1", "t1ce", "t2")
    cells = ",".join(("a", *(f"a/a_{word}.nii.gz" for word in words)))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "list.csv").write_text(f"case,{','.join(words)}\n{cells}\n")
    link = tmp_path / "mine" / "scans.csv"
    link.symlink_to(tmp_path / "shared" / "list.csv")
    monkeypatch.chdir(tmp_path / "mine")
    recipes = []

    def noted(given, *others, **named):
        recipes.append(given)
        raise ValueError("enough")

    monkeypatch.setattr(runs, "train", noted)
    monkeypatch.setattr(table, "fill", lambda folder, design, *others: noted(design.recipes[0]))
    assert invoke(arguments.format(link if whole else link.name).split()) == 2
    (recipe,) = recipes
    assert recipe.folder == str(link)
    assert find_cases([link]).cases[0].first.is_file()
    # What lies above the target of a link does not lie above the link.
    (tmp_path / "elsewhere").symlink_to(tmp_path / "mine" / "a")
    recipes.clear()
    assert invoke(arguments.format(tmp_path / "elsewhere" / ".." / "scans.csv").split()) == 2
    assert Path(recipes[0].folder).samefile(link)
    # A run that was begun when links were followed goes on.
    once = dataclasses.replace(recipe, folder=str(link.resolve()))
    assert once.same_as(recipe) and recipe.same_as(once)
    assert not once.same_as(dataclasses.replace(recipe, folder=str(tmp_path)))
