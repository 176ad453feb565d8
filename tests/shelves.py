"""Folders as ``keelnet train`` and ``keelnet segment`` leave them, without the training."""

import json

import numpy as np
from scans import RAS, SHAPE, write

LINE = {"epoch": 1, "terms": {"loss": 2.0}, "scores": {"accuracy": 0.5}, "best": True}


def write_run(folder, lines=(LINE,), scores=None):
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text('name = "digits"\n')
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if scores is not None:
        (folder / "scores.json").write_text(json.dumps(scores))


def write_labels(folder):
    classes = np.zeros(SHAPE, np.uint8)
    classes[3, 4, 5] = classes[3, 4, 6] = 2
    write(folder / "a.nii.gz", classes, RAS)
    volumes = {
        "file": "a.nii.gz",
        "labels": "brats2023",
        "classes_ml": {"edema": 0.02},
        "regions_ml": {},
    }
    (folder / "volumes.json").write_text(json.dumps({"a": volumes, "gone": volumes}))
