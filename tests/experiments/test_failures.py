"""Failures: kept by cell, read back the same; a file that is none of them is named."""

from dataclasses import replace

import pytest

from keelnet.experiments.failures import FAILURES, Failure, failures_as_json, failures_in
from keelnet.experiments.recipes import recipe_named


def test_failures_are_read_back(tmp_path):
    assert failures_in(tmp_path) == {}
    recipe = replace(recipe_named("swiss_roll"), width=(4, 8), depth=(1, 2))
    failures = {"a/seed-0": Failure(recipe, "the objective became nan")}
    (tmp_path / FAILURES).write_text(failures_as_json(failures))
    assert failures_in(tmp_path) == failures


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"3",
        b"{",
        b"\xff",
        b'{"x": {}}',
        b'{"x": 3}',
        b'{"x": {"failure": "nan", "recipe": {}}}',
        b'{"x": {"failure": "nan", "recipe": "colour = 3"}}',
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / FAILURES).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / FAILURES} .*; move it away$"):
        failures_in(tmp_path)
