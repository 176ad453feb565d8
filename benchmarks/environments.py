"""Environments: an interpreter a peer, built from ``peers/<name>.txt`` under ``.bench/``."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent / ".bench"


@dataclass(frozen=True)
class Environment:
    """A virtual environment; ``shares_torch``: the project's own packages are seen after its own."""

    name: str
    shares_torch: bool

    @property
    def requirements(self) -> Path:
        return HERE / "peers" / f"{self.name}.txt"

    @property
    def interpreter(self) -> Path:
        return ROOT / self.name / "bin" / "python"

    @property
    def fingerprint(self) -> str:
        """What the environment was built from."""
        parts = [self.requirements.read_text(), sys.version]
        if self.shares_torch:
            parts += [version("torch"), version("numpy")]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def build(self) -> str | None:
        """Make it, unless it is there; the reason where it cannot be."""
        folder = ROOT / self.name
        stamp = folder / "ready"
        if stamp.exists() and stamp.read_text() == self.fingerprint:
            return None
        print(f"building the environment of {self.name}", file=sys.stderr, flush=True)
        ROOT.mkdir(exist_ok=True)
        (ROOT / ".gitignore").write_text("*\n")
        shutil.rmtree(folder, ignore_errors=True)
        alone = ["--no-deps"] if self.shares_torch else []
        install = [sys.executable, "-m", "pip", "--python", str(self.interpreter), "install"]
        install += ["--quiet", "--disable-pip-version-check", *alone, "-r", str(self.requirements)]
        for command in ([sys.executable, "-m", "venv", "--without-pip", str(folder)], install):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                return f"its environment could not be built: {(said or [done.stderr])[-1].strip()}"
        if self.shares_torch:
            self._see_the_project()
        stamp.write_text(self.fingerprint)
        return None

    def _see_the_project(self) -> None:
        """addsitedir, not the bare path: an editable install is a .pth file of its own."""
        (packages,) = (ROOT / self.name / "lib").glob("python*/site-packages")
        own = sysconfig.get_paths()["purelib"]
        (packages / "project.pth").write_text(f"import site; site.addsitedir({own!r})\n")


# Peer → environment; those on the project's own interpreter are not listed.
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("torchdiffeq", shares_torch=True),
        Environment("torchode", shares_torch=True),
        Environment("memcnn", shares_torch=True),
        Environment("iunets", shares_torch=True),
        Environment("monai", shares_torch=True),
        Environment("jax", shares_torch=False),
        Environment("diffrax", shares_torch=False),
    )
}


def interpreter_of(name: str) -> Path:
    """Of a peer's environment, or our own."""
    return ENVIRONMENTS[name].interpreter if name in ENVIRONMENTS else Path(sys.executable)
