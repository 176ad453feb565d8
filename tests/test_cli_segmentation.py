"""Commands that use a trained network: what they hand on, without the network."""

from __future__ import annotations

import pytest

from keelnet.cli import invoke
from keelnet.experiments import evaluate, segment
from keelnet.experiments.segment import Segmented


@pytest.mark.parametrize("given", [".", "../liver", "{run}", "{run}/"])
def test_a_run_is_named_by_its_folder(tmp_path, monkeypatch, given):
    run = tmp_path / "liver"
    run.mkdir()
    monkeypatch.chdir(run)
    names = []

    def scored(segmenting, name, *given):
        names.append(name)
        raise ValueError("enough")
        yield

    monkeypatch.setattr(segment, "segmenting_of", lambda *given, **named: None)
    monkeypatch.setattr(evaluate, "evaluate", scored)
    assert invoke(["evaluate", given.format(run=run), str(tmp_path)]) == 2
    assert names == ["liver"]


def test_volumes_of_small_animals_are_printed(tmp_path, monkeypatch, capsys):
    volumes = {"WT": 1.25e-4, "TC": 0.0, "ET": 12.34}
    done = Segmented("mouse", "mouse.nii.gz", "brats2023", {}, volumes)
    monkeypatch.setattr(segment, "segmenting_of", lambda *given, **named: None)
    monkeypatch.setattr(segment, "segment", lambda *given: iter([done]))
    assert invoke(["segment", str(tmp_path), str(tmp_path)]) == 0
    assert "WT 0.000125 ml, TC 0.0 ml, ET 12.3 ml" in capsys.readouterr().out
