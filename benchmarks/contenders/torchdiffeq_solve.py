"""torchdiffeq: odeint with fixed Euler steps; by autograd, or by its adjoint equation.

``perturb`` is its option for right-hand sides that jump between steps: each step sees the K of its
own interval, also on the way back. The adjoint equation is the gradient of the continuous problem:
with explicit Euler it differs from the gradient of the layers by O(h).
"""

from __future__ import annotations

import numpy as np
import torch
from cases import Case, Pass
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from contenders.task import RefusedError
from contenders.torch_task import TorchTask, leaves


class Rate(nn.Module):
    """tanh(y K(t)), K constant over a step."""

    def __init__(self, weights: list[Tensor], step_size: float) -> None:
        super().__init__()
        wants = weights[0].requires_grad
        self.weights = nn.ParameterList([nn.Parameter(one, requires_grad=wants) for one in weights])
        self.step_size = step_size
        self.layers = list(self.weights)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.layers[int(float(t) / self.step_size)])


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    if case.dim or case.scheme != "euler":
        raise RefusedError("it has no symplectic fixed-step method; Euler on dense layers only")
    y0, weights, cotangent = leaves(case, numbers, pass_)
    rate = Rate(weights, case.step_size)
    times = torch.tensor([0.0, case.depth * case.step_size])
    solve = odeint if method == "autograd" else odeint_adjoint
    options = {"step_size": case.step_size, "perturb": True}

    def forward() -> Tensor:
        return solve(rate, y0, times, method="euler", options=options)[-1]

    return TorchTask(forward, y0, rate.layers, cotangent, pass_)
