"""What all tests share: where `problems` lies, one thread a process, the same hypotheses on every run."""

import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
settings.register_profile("laws", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("laws")


@pytest.fixture
def unrendered(monkeypatch):
    """Pictures of runs are composed alone: to render them takes longer than small trainings do."""
    monkeypatch.setattr(Figure, "savefig", lambda self, *where, **how: None)


@pytest.fixture
def said(capsys):
    """Exit code, standard output and standard error of a command in this process."""
    from keelnet.cli import invoke  # late: its types are to be checked

    def told(*arguments):
        code = invoke([*map(str, arguments)])
        return code, *capsys.readouterr()

    return told


@pytest.fixture
def as_a_user():
    """Types and shapes are checked under test only; here the user's own view, without those checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
