"""Provenance: the programs and the machine that results depend on."""

from __future__ import annotations

import os
import platform
from typing import Any

import matplotlib
import numpy as np
import torch

import keelnet


def versions() -> dict[str, str]:
    """The programs that numbers and pictures depend on."""
    return {
        "keelnet": keelnet.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
    }


def machine() -> dict[str, Any]:
    """What times depend on."""
    programs = versions()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **{name: programs[name] for name in ("python", "torch", "keelnet")},
    }
