"""Launches: several processes of one training, started and lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ENOUGH = 120  # seconds, for a machine that is busy with much else
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def torchrun(folder, options, command, said):
    """A launch in a folder, which ends with the block; what it says goes to the file ``said`` there."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    with (folder / said).open("w") as file:
        launch = subprocess.Popen(
            [*TORCHRUN, *options, *command],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield launch
    finally:
        launch.terminate()  # torchrun ends its processes before itself
        launch.wait(ENOUGH)


def ended(launch, said):
    """It ended well; else what it said is shown."""
    assert launch.wait(ENOUGH) == 0, said.read_text()


def until(found):
    """What is found at last; torchrun and its processes take seconds to begin."""
    end = time.monotonic() + ENOUGH
    while not (result := found()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)
    return result


def worker(launch, rank):
    """The process of that rank, a child of torchrun."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            own = (status.parent / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is not ours
            continue
        if parent == launch.pid and b"RANK=%d" % rank in own:
            return int(status.parent.name)
    return None


def epochs(folder):
    """How many a run has behind it for good."""
    lines = folder / "history.jsonl"
    return len(lines.read_text().splitlines()) if (folder / "state.pt").exists() else 0


def outcome(folder):
    """Weights and scores, less the seconds that these took."""
    scores = json.loads((folder / "scores.json").read_text())
    del scores["seconds"]
    return (folder / "weights.safetensors").read_bytes(), scores
