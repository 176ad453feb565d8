"""MONAI: residual units of two convolutions and tanh, no norm, no bias; autograd.

Another network, of as many convolutions on as many channels as Verlet has: y + f(f(y K₁) K₂).
"""

from __future__ import annotations

import numpy as np
import torch
from cases import BACKWARD, Case, Pass
from monai.networks.blocks import ResidualUnit
from torch import nn

from contenders.task import RefusedError
from contenders.torch_task import TorchTask, arranged


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    if not case.dim:
        raise RefusedError("its units are for images")
    layout = torch.channels_last if case.dim == 2 else torch.channels_last_3d
    units = [
        ResidualUnit(
            case.dim, case.inputs, case.inputs, subunits=2, act="tanh", norm=None, bias=False
        )
        for _ in range(case.depth)
    ]
    network = nn.Sequential(*units).to(memory_format=layout)
    wants = pass_ == BACKWARD
    half = np.ascontiguousarray(numbers["y0"][:, : case.inputs])
    y0 = arranged(torch.from_numpy(half)).detach().requires_grad_(wants)
    cotangent = arranged(torch.from_numpy(numbers["cotangent"][:, : case.inputs]))
    return TorchTask(lambda: network(y0), y0, list(network.parameters()), cotangent, pass_)
