"""One call of a tile kernel: the block and the table that it reads, and everything that they point to."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.propagation.engines import pool
from keelnet.propagation.engines.adjoining import beside
from keelnet.propagation.engines.effective import own_gradients
from keelnet.propagation.engines.execution import Gradients
from keelnet.propagation.engines.move_table import MoveTable
from keelnet.propagation.engines.threads import launch_all
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem

LARGEST_SPREAD = 1 << 20  # bytes of gradients that are summed lane by lane


def _inner(problem: Problem) -> int:
    return max(move.form.inner for move in problem.tabled[0] if move.form is not None)


def _double(problem: Problem) -> bool:
    return problem.state[0].dtype == torch.float64


def _kernel(name: str) -> Any:
    """What compiles the kernel of this name; loading it loads Numba."""
    kind = name if name.startswith("stages") else f"tiles_{name}"
    return getattr(import_module(f"keelnet.propagation.engines.{kind}"), name)


def _nothing(name: str, form: Form) -> None:
    """No gradient is wanted."""


def rows(part: Tensor) -> Tensor:
    """(samples, channels), the numbers of a sample beside one another, or zeros that are one seen as many."""
    flat = part.resolve_neg().reshape(-1, part.shape[-1])
    return flat if flat.stride(-1) == 1 or _is_nothing(flat) else flat.contiguous()


def _is_nothing(part: Tensor) -> bool:
    """Whether it is a single zero seen as many, as z is at the start: the kernel then reads nothing."""
    return part.numel() > 1 and not any(part.stride()) and not part[0, 0].item()


class TileCall:
    """One call of a kernel: the block and the table that it reads, and everything that they point to."""

    def __init__(self, problem: Problem, wanted: tuple[bool, ...] = ()) -> None:
        from keelnet.propagation.engines import bends, lanes, layout

        self.problem, self.kernels = problem, layout
        self.inputs = [rows(part.detach()) for part in problem.state]
        self.batch = len(self.inputs[0])
        self.moves = problem.tabled
        form = next(move.form for move in self.moves[0] if move.form is not None)
        bend = bends.bend_of(form.activation)
        assert bend is not None
        lane_count = lanes.BYTES // (8 if _double(problem) else 4)
        self.lanes = lane_count
        self.vectors = 4 if self.batch > lane_count else 1
        self.bend = bend.name
        tiles_count = -(-self.batch // (self.vectors * lane_count))
        self.samples = self.vectors * lane_count
        self.threads = max(1, min(torch.get_num_threads(), tiles_count, self._worth()))
        self.wanted = dict(zip(problem.controls, wanted[len(problem.state) :], strict=False))
        self.damping_wanted = (
            len(wanted) > len(problem.state) + len(problem.controls) and wanted[-1]
        )
        self.sums: dict[str, Tensor] = {}
        self.table = MoveTable(problem, self._sum if wanted else _nothing)
        self.place = self._fill()

    def _worth(self) -> int:
        """Threads that pay: a second one that sleeps may take longer to wake than some 4·10⁶ multiplications."""
        work = sum(
            self.problem.depth * self.batch * (8 + move.form.inputs) * move.form.inner
            for move in self.moves[0]
            if move.form is not None
        )
        return 1 + work * self._stages // 4_000_000

    @property
    def _stages(self) -> int:
        """Times that a layer evaluates its rates."""
        return 1 if self.problem.stages is None else len(self.problem.stages.weights)

    def _fill(self) -> int:
        """Where each move keeps its part of a layer's record; the numbers that a layer keeps."""
        column, place = self.kernels.Column, 0
        for row, move in self.table.each():
            row[column.PLACE] = place
            place += self.inputs[move.to].shape[-1]
            if move.form is not None:
                row[column.KEPT] = place
                row[column.SPREAD] = self._spreads(move.form)
                place += move.form.inner
        return place

    def _sum(self, name: str, form: Form) -> Tensor | None:
        """Where the gradient of a control is summed, each thread apart."""
        weight = name.startswith("weight")
        if not self.wanted.get(name, False) and not (weight and self.damping_wanted):
            return None
        if name not in self.sums:
            like = self.problem.controls[name]
            spread = self.lanes if weight and self._spreads(form) else 1
            self.sums[name] = pool.zeros((self.threads, *like.shape, spread), like.dtype)
        return self.sums[name]

    def _spreads(self, form: Form) -> bool:
        """Whether the gradient of a weight is summed lane by lane: faster, as long as it stays in the cache."""
        entries = self.problem.depth * form.inputs * form.inner
        return entries * self.lanes * self.inputs[0].element_size() <= LARGEST_SPREAD

    def outputs(self) -> list[Tensor]:
        """One for each part of the state; beside one another in memory where the parts themselves are."""
        widths = [part.shape[-1] for part in self.inputs]
        if beside(self.inputs):
            both = pool.empty((self.batch, sum(widths)), self.inputs[0].dtype)
            return list(torch.split(both, widths, dim=-1))
        return [pool.empty((self.batch, width), self.inputs[0].dtype) for width in widths]

    def shaped(self, parts: list[Tensor]) -> State:
        return tuple(
            part.reshape(like.shape) for part, like in zip(parts, self.problem.state, strict=True)
        )

    def forward(self, kernel: str) -> State:
        """The last state, by this forward kernel."""
        outs = self.outputs()
        self.run(kernel, IN=self.inputs, OUT=outs)
        return self.shaped(outs)

    def path(self, kernel: str, layers: Sequence[int]) -> list[State]:
        """The states after these layers, counted from 1."""
        picks = np.full(self.problem.depth, -1, np.int64)
        picks[np.asarray(layers, np.int64) - 1] = np.arange(len(layers))
        paths = [part.new_empty((len(layers), *part.shape)) for part in self.inputs]
        self.run(kernel, IN=self.inputs, PATH=paths, PICKS=picks)
        shaped = [  # once, not state by state: a thousand views take as long as the layers
            path.view(len(layers), *like.shape).unbind()
            for path, like in zip(paths, self.problem.state, strict=True)
        ]
        return list(zip(*shaped, strict=True))

    def pulled(self, kernel: str, costate: State, undoes: bool = False) -> Gradients:
        """The gradients of the problem's tensors, by this backward kernel."""
        pulls, pulled = [rows(grad) for grad in costate], self.outputs()
        self.run(kernel, IN=self.inputs, PULL=pulls, PULLED=pulled, REVERSIBLE=undoes)
        return (*self.shaped(pulled), *self.control_gradients())

    def run(self, kernel: str, **named: Any) -> None:
        """Fill the block and start the threads; two-part names take a list of tensors."""
        slot = self.kernels.Slot
        block = np.zeros(int(slot.COUNT), np.int64)
        problem, tall = self.problem, self.samples
        for name, value in named.items():
            if isinstance(value, list):
                for part, tensor in enumerate(value):
                    if not _is_nothing(tensor):
                        block[slot[f"{name}_{part}"]] = tensor.data_ptr()
                        block[slot[f"{name}_STEP_{part}"]] = tensor.stride(-2)
            elif isinstance(value, np.ndarray):
                block[slot[name]] = value.ctypes.data
            else:
                block[slot[name]] = int(value)
        widths = [part.shape[-1] for part in self.inputs]
        inner = _inner(problem)
        records = "PULL" in named and not named["REVERSIBLE"]
        copies = 2 if problem.stages is None else 4
        share = tall * (copies * sum(widths) + widths[0] + 2 * inner + 16)
        share += tall * self.place * (problem.depth * self._stages + 1) if records else 0
        scratch = pool.empty((self.threads * share + 16,), problem.state[0].dtype)
        pointers = np.empty(
            self.threads * problem.depth * len(self.moves[0]) if records else 0, np.int64
        )
        block[slot.THREADS] = self.threads
        block[slot.BATCH], block[slot.DEPTH] = self.batch, problem.depth
        block[slot.MOVES], block[slot.TABLE] = len(self.moves[0]), self.table.rows.ctypes.data
        block[slot.SCALES], block[slot.SCRATCH] = self.table.scales.ctypes.data, scratch.data_ptr()
        if problem.stages is not None:
            steps = np.array((problem.stages.ahead, problem.stages.weights), np.float64)
            block[slot.STAGES] = steps.shape[1]
            block[slot.AHEAD], block[slot.WEIGHTS] = (row.ctypes.data for row in steps)
        block[slot.SHARE], block[slot.INNER] = share, inner
        block[slot.ROWS_0] = widths[0]
        block[slot.ROWS_1] = widths[1] if len(widths) > 1 else 0
        block[slot.SWAPS], block[slot.RECORD] = problem.swaps, self.place
        block[slot.POINTERS] = pointers.ctypes.data
        compiled = _kernel(kernel)(self.vectors, self.bend, _double(problem))
        launch_all(compiled.address, block, int(slot.TICKET), self.threads)

    def control_gradients(self) -> Gradients:
        """In the order of the controls, then the damping's."""
        grads: list[Tensor | None] = []
        damping = None
        for name in self.problem.controls:
            total = None
            if name in self.sums:
                total = self.sums[name]
                total = total.sum(0) if self.threads > 1 else total[0]
                total = total @ total.new_ones(total.shape[-1])
                form = self.moves[0][0].form
                if self.problem.damping is not None and name == "weight" and form is not None:
                    total, damping = own_gradients(form, total)
            grads.append(total if self.wanted.get(name, False) else None)
        if isinstance(self.problem.damping, Tensor):
            grads.append(damping if self.damping_wanted else None)
        return tuple(grads)
