"""keelnet, by its public door; a method is a strategy."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from cases import BACKWARD, Case, Pass, checked_rows

import keelnet as kn
from contenders.task import RefusedError
from contenders.torch_task import TorchTask, arranged


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    if method == "reversible" and case.scheme == "euler":
        raise RefusedError("Euler cannot be stepped back")
    return _task(case, numbers, method, pass_)


def reference(case: Case, numbers: dict[str, np.ndarray], pass_: Pass) -> dict[str, np.ndarray]:
    """y and gradients of the checked samples, in float64 by the plain engine."""
    rows = checked_rows(case)
    cut = {name: value[:rows] if name != "weight" else value for name, value in numbers.items()}
    wide = {name: value.astype(np.float64) for name, value in cut.items()}
    plain = kn.engine("reference") if "engine" in kn.__all__ else nullcontext()
    with plain:
        return _task(case, wide, "store_all", pass_).outcome(wide["cotangent"])


def _task(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    field, integrator = _scheme(case)
    strategy = getattr(kn, method)
    wants = pass_ == BACKWARD
    y0 = arranged(torch.from_numpy(numbers["y0"])).detach().requires_grad_(wants)
    weight = torch.from_numpy(numbers["weight"]).requires_grad_(wants)

    def forward() -> torch.Tensor:
        return kn.propagate(integrator, field, y0, {"weight": weight}, case.step_size, strategy)

    cotangent = arranged(torch.from_numpy(numbers["cotangent"]))
    note = _engine(integrator, field, y0, weight, case, strategy)
    return TorchTask(forward, y0, [weight], cotangent, pass_, note)


def _scheme(case: Case) -> tuple[object, object]:
    if case.dim:
        kernel = kn.ConvKernel(case.inputs, dim=case.dim)
    else:
        kernel = kn.DenseKernel(case.inputs, case.outputs)
    if case.scheme == "euler":
        return kn.SingleField(kernel, "tanh"), kn.Euler()
    return kn.HamiltonianField(kernel, "tanh"), kn.Verlet()


def _engine(
    integrator: kn.Integrator,
    field: kn.Field,
    y0: torch.Tensor,
    weight: torch.Tensor,
    case: Case,
    strategy: Any,
) -> str:
    """Which engine the call takes, and why by its own account."""
    choice = kn.engine_of(
        integrator, field, y0, {"weight": weight}, case.step_size, strategy=strategy
    )
    return f"engine: {choice.name}, {choice.reason}"
