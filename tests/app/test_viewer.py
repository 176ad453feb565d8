"""The viewer's page, without a browser: what stands under a name is of that name, and of now."""

import asyncio
import json
import os
import shlex
import shutil
import threading

import numpy as np
import pytest
import tomli_w
from fastapi import FastAPI, Request
from nicegui import Client, ui
from nicegui.page import page
from scans import RAS, SHAPE, write
from shelves import write_labels, write_run

from keelnet.app import viewer
from keelnet.app.shelf import Entry, Shelf
from keelnet.app.viewer import _Page
from keelnet.experiments.recipes import recipe_named


@pytest.fixture
def visitor(monkeypatch):
    """What one visitor sees of a shelf; the clock is ours, and there is no browser to be told."""
    monkeypatch.setattr(ui, "timer", lambda *given, **named: None)
    monkeypatch.setattr(ui.navigate.history, "replace", lambda url: None)
    reloads = []
    monkeypatch.setattr(ui.navigate, "reload", lambda: reloads.append(True))
    client = Client(page("/runs"), request=None)

    def opened(root, asked=""):
        seen = _Page(Shelf(root), None)
        seen.reloads = reloads
        seen.build(asked)
        return seen

    with client:
        yield opened
    client.delete()


def table(seen):
    return seen.panel.volumes.content


def test_labels_that_are_written_again_are_drawn_again(tmp_path, visitor):
    write_labels(tmp_path)
    seen = visitor(tmp_path)
    first = seen.panel.image.props["src"]
    seen.look()
    assert seen.panel.image.props["src"] == first and "slice=5" in first
    write(tmp_path / "a.nii.gz", np.full(SHAPE, 1, np.uint8), RAS)
    os.utime(tmp_path / "a.nii.gz", ns=(1, 1))
    seen.look()
    assert seen.panel.image.props["src"] != first and "version=1-" in seen.panel.image.props["src"]


def test_nothing_of_another_case_stands_under_one_that_cannot_be_read(tmp_path, visitor):
    write_labels(tmp_path)
    about = json.loads((tmp_path / "volumes.json").read_text())["a"]
    (tmp_path / "volumes.json").write_text(json.dumps({"a": about, "b": about}))
    (tmp_path / "b.nii.gz").write_bytes(b"no volume")
    seen = visitor(tmp_path)
    assert "src" in seen.panel.image.props and "Volumes of a" in table(seen)
    seen.panel.case.set_value("b")
    seen.panel.opacity.set_value(0.1)
    assert not {"src", "alt"} & set(seen.panel.image.props) and table(seen) == ""
    assert "b.nii.gz cannot be read" in seen.panel.note.text
    seen.panel.case.set_value("a")
    assert "case=a" in seen.panel.image.props["src"] and "Volumes of a" in table(seen)


def test_cases_that_are_labelled_later_can_be_chosen(tmp_path, visitor):
    write_labels(tmp_path)
    text = (tmp_path / "volumes.json").read_text()
    (tmp_path / "volumes.json").write_text("{}")
    seen = visitor(tmp_path)
    assert seen.state.text == "0 labelled cases"
    (tmp_path / "volumes.json").write_text(text)
    seen.look()
    assert seen.panel.case.options == ["a"] and "case=a" in seen.panel.image.props["src"]
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "gone.nii.gz")
    seen.look()
    assert seen.panel.case.options == ["a", "gone"] and seen.panel.case.value == "a"
    (tmp_path / "a.nii.gz").unlink()
    seen.look()
    assert "case=gone" in seen.panel.image.props["src"] and "Volumes of gone" in table(seen)


def test_a_run_that_was_removed_leaves_nothing_of_another_under_its_name(tmp_path, visitor):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two")
    seen = visitor(tmp_path, "one")
    shutil.rmtree(tmp_path / "two")
    seen.choose("two")
    assert seen.panel is None and not list(seen.body) and "two is no run folder" in seen.state.text
    seen.look()
    seen.choose("one")
    assert seen.panel.entry.name == "one" and "Epoch 1" in seen.state.text


def test_the_recipe_is_that_of_the_run_whose_curves_are_shown(tmp_path, visitor):
    write_run(tmp_path / "run")
    seen = visitor(tmp_path)
    assert 'name = "digits"' in seen.panel.recipe.text and not seen.panel.hint.visible
    staged = tmp_path / "run" / ".unfinished"
    write_run(staged, lines=())
    (staged / "recipe.toml").write_text("")
    seen.look()
    assert seen.state.text == "No epoch is finished yet."
    assert 'name = "digits"' in seen.panel.recipe.text, "kept until there is a new one"
    text = tomli_w.dumps(recipe_named("tumour").as_table())
    (staged / "recipe.toml").write_text(text)
    seen.look()
    assert seen.panel.recipe.text == text
    assert seen.panel.hint.visible and f"keelnet segment {tmp_path / 'run'}" in seen.panel.hint.text
    (staged / "recipe.toml").write_text(f"{text}sharpness = 2\n")
    seen.look()
    assert not seen.panel.hint.visible, "keelnet segment refuses a recipe that it cannot read"


def test_the_hint_names_commands_that_can_be_copied(tmp_path, visitor):
    """Labels beside the folder that is shown are not on its shelf."""
    write_run(tmp_path / "my run")
    hint = visitor(tmp_path / "my run").panel.hint.text
    run, out = (shlex.quote(str(tmp_path / name)) for name in ("my run", "segmented"))
    assert f"keelnet segment {run} SCANS --out {out}, then keelnet explore {out}" in hint


def test_runs_that_come_later_can_be_chosen(tmp_path, visitor):
    write_run(tmp_path / "one")
    seen = visitor(tmp_path)
    write_run(tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    asyncio.run(seen.relist())
    assert set(seen.names.options) == {"one", "two"} and seen.names.value == "one"


def test_the_first_run_is_waited_for(tmp_path, visitor):
    seen = visitor(tmp_path)
    asyncio.run(seen.wait())
    assert not seen.reloads
    write_run(tmp_path / "one")
    asyncio.run(seen.wait())
    assert seen.reloads


def test_folders_are_listed_beside_the_pages_that_wait(tmp_path, visitor, monkeypatch):
    write_run(tmp_path / "one")
    seen = visitor(tmp_path)
    real, threads = Shelf.entries, []

    def entries(shelf):
        threads.append(threading.get_ident())
        return real(shelf)

    monkeypatch.setattr(Shelf, "entries", entries)
    asyncio.run(seen.relist())
    assert threads and threading.get_ident() not in threads


def test_labels_are_read_once_a_look(tmp_path, visitor, monkeypatch):
    write_labels(tmp_path)
    seen = visitor(tmp_path)
    real, calls = Entry.labels, []
    monkeypatch.setattr(Entry, "labels", lambda entry: calls.append(entry) or real(entry))
    seen.look()
    assert len(calls) == 1 and seen.state.text == "1 labelled cases"


def test_a_picture_that_vanishes_is_refused(tmp_path, monkeypatch):
    write_run(tmp_path / "one")
    (tmp_path / "one" / "curves.png").write_bytes(b"x")
    app = FastAPI()
    monkeypatch.setattr(ui, "run_with", lambda *given, **named: None)
    viewer.mount(app, Shelf(tmp_path), None)
    (picture,) = [each.endpoint for each in app.routes if each.path == "/runs/picture"]
    asked = Request({"type": "http", "query_string": b"run=one&name=curves.png"})
    assert picture(asked).body == b"x"
    monkeypatch.setattr(Entry, "picture", lambda self, name: self.folder / "gone.png")
    answer = picture(asked)
    assert answer.status_code == 400 and b"No such file" in answer.body
