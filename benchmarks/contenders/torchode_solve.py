"""torchode: Euler with a fixed step, gradients through the solver."""

from __future__ import annotations

import numpy as np
import torch
import torchode
from cases import Case, Pass
from torch import Tensor

from contenders.task import RefusedError
from contenders.torch_task import TorchTask, leaves


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    if case.dim or case.scheme != "euler":
        raise RefusedError("it has no symplectic method; Euler on dense layers only")
    y0, weights, cotangent = leaves(case, numbers, pass_)
    h = case.step_size

    def rate(t: Tensor, y: Tensor) -> Tensor:
        layer = min(round(float(t[0]) / h), case.depth - 1)  # every sample is at the same time
        return torch.tanh(y @ weights[layer])

    term = torchode.ODETerm(rate)
    solver = torchode.AutoDiffAdjoint(torchode.Euler(term), torchode.FixedStepController())
    starts, ends = torch.zeros(case.batch), torch.full((case.batch,), case.depth * h)
    steps = torch.full((case.batch,), h)

    def forward() -> Tensor:
        problem = torchode.InitialValueProblem(y0=y0, t_start=starts, t_end=ends)
        return solver.solve(problem, dt0=steps).ys[:, -1]

    return TorchTask(forward, y0, weights, cotangent, pass_)
