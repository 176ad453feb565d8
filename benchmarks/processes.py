"""Process: the long-lived worker of one peer, spoken to in JSON lines."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
THREADS = 2


class Process:
    """A worker; ``ask`` sends one request and waits for its answer."""

    def __init__(self, interpreter: Path, module: str, log: Path) -> None:
        self.interpreter, self.module, self.log = interpreter, module, log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Begin; ``ready`` says how it went, so that several can start at once."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [self.interpreter, HERE / "worker.py", self.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(self.log.parent),
                preexec_fn=_pinned,
            )

    def ready(self, timeout: float = 120) -> dict[str, Any]:
        """The first answer: the libraries are loaded, or why they are not."""
        return self._answer(timeout)

    def ask(self, do: str, timeout: float, **request: Any) -> dict[str, Any]:
        """The answer; a worker that dies or is late answers ``refused`` and begins anew."""
        if not self.alive:
            self.start()
            if "refused" in (answer := self.ready()):
                return answer
        assert self._child is not None and self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
        self._child.stdin.flush()
        return self._answer(timeout)

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._child is not None and self._child.stdout is not None
        readable, _, _ = select.select([self._child.stdout], [], [], timeout)
        if not readable:
            self.stop()
            return {"refused": f"not finished after {timeout:.0f} s"}
        line = self._child.stdout.readline()
        if not line:
            code = self._child.wait()
            self.stop()
            return {"refused": f"its process ended with code {code} (-9: out of memory)"}
        return json.loads(line)

    def settle(self, least: float, most: float = 0.5) -> None:
        """Wait until none of its threads runs: an idle pool may spin, OpenBLAS's for 100 ms."""
        end = time.monotonic() + most
        time.sleep(least)
        while self._child is not None and _running(self._child.pid) and time.monotonic() < end:
            time.sleep(0.003)

    def stop(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
        self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _running(process: int) -> bool:
    """Whether any thread of a process is running or ready to run; False where that is hidden."""
    for path in Path(f"/proc/{process}/task").glob("*/stat"):
        try:
            state = path.read_text().rpartition(")")[2].split()[0]
        except OSError:  # the thread has ended
            continue
        if state == "R":
            return True
    return False


def environment(cache: Path) -> dict[str, str]:
    """Two threads for every library, its compiled programs kept on disk."""
    result = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    result |= {f"{name}_NUM_THREADS": str(THREADS) for name in names}
    result |= {
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return result


def _pinned() -> None:
    """The first two processors that are cores of their own: XLA counts threads by them."""
    os.sched_setaffinity(0, two_cores())


def two_cores() -> set[int]:
    """Two of the processors we may use, not two threads of one core where that can be seen."""
    chosen: dict[str, int] = {}
    allowed = sorted(os.sched_getaffinity(0))
    for processor in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        core = path.read_text().strip() if path.exists() else str(processor)
        chosen.setdefault(core, processor)
    cores = list(chosen.values())
    return set(cores[:THREADS] if len(cores) >= THREADS else allowed[:THREADS])
