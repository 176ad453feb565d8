"""What tiles cannot hold: forms that the compiled microkernels do not know."""

from __future__ import annotations

import torch

from keelnet.dynamics.forms import Form
from keelnet.dynamics.kernels import DenseKernel
from keelnet.propagation.engines.compiler import NO_NUMBA, has_numba
from keelnet.propagation.problem import Problem

LARGEST_RECORD = 1 << 28  # bytes that one thread may keep of a tile


def forms(problem: Problem) -> list[Form]:
    """Those that a layer evaluates."""
    return [move.form for move in problem.tabled[0] if move.form is not None]


def channels(problem: Problem) -> int:
    """The most that a form reads or bends."""
    return max(max(form.inputs, form.inner) for form in forms(problem))


def record_bytes(problem: Problem) -> int:
    """What a tile of 32 or 64 samples keeps of all layers for the way back."""
    moves = problem.tabled[0]
    count = sum(0 if move.form is None else move.form.inner for move in moves)
    count += sum(problem.state[move.to].shape[-1] for move in moves)
    stages = 1 if problem.stages is None else len(problem.stages.weights)
    wide = 2 if problem.state[0].dtype == torch.float64 else 1
    return count * stages * problem.depth * 256 * wide


def tile_obstacle(problem: Problem) -> str | None:
    """Why no tile can take the propagation; None if it can."""
    if problem.state[0].device.type != "cpu":
        return "it runs on the processor"
    found = [obstacle for form in forms(problem) if (obstacle := _form_obstacle(form)) is not None]
    return found[0] if found else None


def _form_obstacle(form: Form) -> str | None:
    if type(form.kernel) is not DenseKernel:
        return "the kernel is a convolution"
    if form.norm is not None:
        return "it fuses no norm"
    if not has_numba():
        return NO_NUMBA
    from keelnet.propagation.engines.bends import bend_of

    bend = bend_of(form.activation)
    if bend is None:
        return f"activation {form.activation.name} is not among those that it knows"
    if form.closed and not bend.keeps_value:
        return f"the slope of {bend.name} does not follow from its value"
    return None
