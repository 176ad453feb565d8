"""The machine that measured: processor, threads, versions, date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from environments import ENVIRONMENTS
from processes import THREADS, two_cores


def machine() -> dict[str, str]:
    """Label → text, in the order of the report."""
    cores = sorted(two_cores())
    pins = {
        line.split("==")[0]: line.strip().split("==")[1]
        for one in ENVIRONMENTS.values()
        for line in one.requirements.read_text().splitlines()
        if "==" in line
    }
    peers = ("jax", "diffrax", "torchdiffeq", "torchode", "memcnn", "iunets", "monai")
    return {
        "processor": processor(),
        "cores": f"{os.cpu_count()}, of which {len(cores)} are used ({', '.join(map(str, cores))})",
        "threads": f"{THREADS} for every library",
        "type": "float32",
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}",
        "versions": ", ".join(
            [versions("keelnet", "torch", "numpy")]
            + [f"{name} {pins[name]}" for name in peers if name in pins]
        ),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def versions(*names: str) -> str:
    """Of installed packages."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def available_bytes() -> int:
    """Memory that is free now."""
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
