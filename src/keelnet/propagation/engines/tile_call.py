"""One call of a tile kernel: the block and the table that it reads, and everything that they point to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.propagation.engines import pool
from keelnet.propagation.engines.effective import effective_weight, own_gradients
from keelnet.propagation.engines.execution import Gradients
from keelnet.propagation.engines.threads import launch
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem

LARGEST_SPREAD = 1 << 20  # bytes of gradients that are summed lane by lane


def _inner(problem: Problem) -> int:
    assert problem.moves is not None
    return max(move.form.inner for move in problem.moves[0] if move.form is not None)


def _double(problem: Problem) -> bool:
    return problem.state[0].dtype == torch.float64


def _kernel(name: str) -> Any:
    if name == "forward":
        from keelnet.propagation.engines.tiles_forward import forward

        return forward
    from keelnet.propagation.engines.tiles_backward import backward

    return backward


def rows(part: Tensor) -> Tensor:
    """(samples, channels), contiguous but for zeros that are one number seen as many."""
    flat = part.reshape(-1, part.shape[-1])
    return flat if _is_nothing(flat) else flat.contiguous()


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
        assert problem.moves is not None
        self.moves = problem.moves
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
        self.weights: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.table = np.zeros((len(self.moves[0]), int(layout.Column.COUNT)), np.int64)
        self.scales = np.array(
            [
                move.scale * (1.0 if move.form is None else move.form.sign)
                for moves in self.moves
                for move in moves
            ]
        )
        self._fill(bool(wanted))

    def _worth(self) -> int:
        """Threads that pay: a second one that sleeps may take longer to wake than some 4·10⁶ multiplications."""
        work = sum(
            self.problem.depth * self.batch * (8 + move.form.inputs) * move.form.inner
            for move in self.moves[0]
            if move.form is not None
        )
        return 1 + work // 4_000_000

    def _fill(self, backward: bool) -> None:
        column = self.kernels.Column
        place = 0
        for row, move in zip(self.table, self.moves[0], strict=True):
            row[column.TO], row[column.OF] = move.to, move.of
            row[column.PLACE] = place
            place += self.inputs[move.to].shape[-1]
            if move.form is None:
                continue
            form = move.form
            row[column.KEPT] = place
            place += form.inner
            row[column.KIND] = 2 if form.closed else 1
            row[column.INPUTS], row[column.INNER] = form.inputs, form.inner
            row[column.ADJOINT] = form.adjoint
            weight = self._weight(form)
            row[column.WEIGHT], row[column.WEIGHT_STEP] = weight.data_ptr(), weight.stride(0)
            across, down = weight.stride()[1:]
            row[column.ACROSS], row[column.DOWN] = (
                (down, across) if form.adjoint else (across, down)
            )
            self._bias(row, form)
            if backward:
                self._sum(row, form)
        self.place = place

    def _weight(self, form: Form) -> Tensor:
        name = f"weight{form.suffix}"
        if name not in self.weights:
            self.weights[name] = effective_weight(form, self.problem.controls[name].detach())
        return self.weights[name]

    def _bias(self, row: Any, form: Form) -> None:
        column, name = self.kernels.Column, f"bias{form.suffix}"
        if name not in self.problem.controls:
            return
        if name not in self.weights:
            bias = self.problem.controls[name].detach()
            # A stride of 0 stands for one number a layer.
            spread = bias.ndim == 2 and bias.stride(1) == 0
            self.weights[name] = bias.contiguous() if spread else bias
        bias = self.weights[name]
        row[column.BIAS], row[column.BIAS_STEP] = bias.data_ptr(), bias.stride(0)
        row[column.BIAS_STRIDE] = max(1, bias.stride(1)) if bias.ndim == 2 else 0

    def _sum(self, row: Any, form: Form) -> None:
        """Where the gradients of this form's controls are summed, each thread apart."""
        column = self.kernels.Column
        for kind, address, share in (
            ("weight", column.WEIGHT_SUMS, column.WEIGHT_SHARE),
            ("bias", column.BIAS_SUMS, column.BIAS_SHARE),
        ):
            name = f"{kind}{form.suffix}"
            also = kind == "weight" and self.damping_wanted
            if not self.wanted.get(name, False) and not also:
                continue
            if name not in self.sums:
                like = self.problem.controls[name]
                spread = self.lanes if kind == "weight" and self._spreads(form) else 1
                shape = (self.threads, *like.shape, spread)
                self.sums[name] = pool.zeros(shape, like.dtype)
            row[address] = self.sums[name].data_ptr()
            row[share] = self.sums[name][0].numel()
        row[column.SPREAD] = self._spreads(form)

    def _spreads(self, form: Form) -> bool:
        """Whether the gradient of a weight is summed lane by lane: faster, as long as it stays in the cache."""
        entries = self.problem.depth * form.inputs * form.inner
        return entries * self.lanes * self.inputs[0].element_size() <= LARGEST_SPREAD

    def outputs(self) -> list[Tensor]:
        return [pool.empty(tuple(part.shape), part.dtype) for part in self.inputs]

    def shaped(self, parts: list[Tensor]) -> State:
        return tuple(
            part.reshape(like.shape) for part, like in zip(parts, self.problem.state, strict=True)
        )

    def run(self, kernel: str, **named: Any) -> None:
        """Fill the block and start the threads; two-part names take a list of tensors."""
        slot = self.kernels.Slot
        block = np.zeros(int(slot.COUNT), np.int64)
        ticket = np.zeros(1, np.int64)
        problem, tall = self.problem, self.samples
        for name, value in named.items():
            if isinstance(value, list):
                for part, tensor in enumerate(value):
                    if not _is_nothing(tensor):
                        block[slot[f"{name}_{part}"]] = tensor.data_ptr()
            elif isinstance(value, np.ndarray):
                block[slot[name]] = value.ctypes.data
            else:
                block[slot[name]] = int(value)
        widths = [part.shape[-1] for part in self.inputs]
        inner = _inner(problem)
        records = kernel == "backward" and not named["REVERSIBLE"]
        share = tall * (2 * sum(widths) + widths[0] + 2 * inner + 16)
        share += tall * self.place * problem.depth if records else 0
        scratch = pool.empty((self.threads * share + 16,), problem.state[0].dtype)
        pointers = np.empty(
            self.threads * problem.depth * len(self.moves[0]) if records else 0, np.int64
        )
        block[slot.TICKET], block[slot.THREADS] = ticket.ctypes.data, self.threads
        block[slot.BATCH], block[slot.DEPTH] = self.batch, problem.depth
        block[slot.MOVES], block[slot.TABLE] = len(self.table), self.table.ctypes.data
        block[slot.SCALES], block[slot.SCRATCH] = self.scales.ctypes.data, scratch.data_ptr()
        block[slot.SHARE], block[slot.INNER] = share, inner
        block[slot.ROWS_0] = widths[0]
        block[slot.ROWS_1] = widths[1] if len(widths) > 1 else 0
        block[slot.SWAPS], block[slot.RECORD] = problem.swaps, self.place
        block[slot.POINTERS] = pointers.ctypes.data
        compiled = _kernel(kernel)(self.vectors, self.bend, _double(problem))
        launch(compiled.address, block.ctypes.data, self.threads)
        for _ in range(self.threads - int(ticket[0])):  # OpenMP may give fewer threads than asked
            launch(compiled.address, block.ctypes.data, 1)

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
