"""The loop over layers that runs compiled, block after block: the Python side of the block kernels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.dynamics.kernels import DenseKernel
from keelnet.propagation.engines import pool
from keelnet.propagation.engines.compiler import NO_NUMBA, has_numba
from keelnet.propagation.engines.loop import Arrays, Loop
from keelnet.propagation.engines.threads import launch_all
from keelnet.propagation.problem import Problem

Record = tuple[Tensor, ...]  # a move: the moved parts, and where it has a form, what f left

CHUNK_BYTES = 1 << 20  # of a chunk's arrays: what stays in the cache next to a processor
PAYS = 32  # tiles of a chunk that make packing the weights cheap, if the cache holds fewer
GROUP_BYTES = 1 << 14  # of the tiles' panels whose outer products are summed together
FEWEST = 64  # samples, below which tiles stay half empty
WEIGHTS_A_SAMPLE = 1 << 9  # above, few samples share the work of packing a weight
LARGEST_WEIGHT = 1 << 18  # numbers, above which its panels leave the cache
LARGEST_SUMS = 1 << 31  # bytes of weight gradients, each thread apart


def obstacle(problem: Problem) -> str | None:
    """Why the compiled loop cannot take the propagation; None if it can."""
    if not has_numba():
        return NO_NUMBA
    from keelnet.propagation.engines.bends import bend_of

    assert problem.moves is not None
    for form in (move.form for move in problem.moves[0] if move.form is not None):
        bend = bend_of(form.activation)
        if type(form.kernel) is not DenseKernel or form.norm is not None:
            return "it takes dense kernels without a norm"
        if bend is None:
            return f"activation {form.activation.name} is not among those that it knows"
        if form.closed and not bend.keeps_value:
            return f"the slope of {bend.name} does not follow from its value"
    part = problem.state[0]
    samples = part.numel() // part.shape[-1]
    if samples < FEWEST:
        return f"there are fewer than {FEWEST} samples"
    largest = max(move.form.inputs * move.form.inner for move in problem.moves[0] if move.form)
    if _slow_products():
        return None
    if largest > samples * WEIGHTS_A_SAMPLE:
        return "packing the weights would take longer than it saves"
    if largest > LARGEST_WEIGHT:
        return f"torch's own product is as fast for weights of more than {LARGEST_WEIGHT} numbers"
    return None


@functools.cache
def _slow_products() -> bool:
    """Whether torch multiplies matrices at half of what the processor can: oneMKL on another maker's.

    `docs/decisions.md` 21 has the figures.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # another system: no reason to think so
        return False
    mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return mkl and "GenuineIntel" not in text


class BlockLoop(Loop):
    """The layers of one problem on chunks of tiles."""

    def __init__(self, problem: Problem) -> None:
        from keelnet.propagation.engines import bends, block_layout, lanes, layout, move_table
        from keelnet.propagation.engines.panels import PANEL, VECTORS

        self.problem, self._panel = problem, PANEL
        self._slot, self._column, self._table = block_layout.BlockSlot, layout.Column, move_table
        assert problem.moves is not None
        self._moves = problem.moves[0]
        self._forms = [move.form for move in problem.moves[0] if move.form is not None]
        bend = bends.bend_of(self._forms[0].activation)
        assert bend is not None
        self._bend, self._double = bend.name, problem.state[0].dtype == torch.float64
        self._samples = VECTORS * (lanes.BYTES // problem.state[0].element_size())
        self._widths = [part.shape[-1] for part in problem.state]
        self._inner = max(form.inner for form in self._forms)
        self._batch = problem.state[0].numel() // self._widths[0]
        self._tiles = -(-self._batch // self._samples)
        self._threads = max(1, min(torch.get_num_threads(), self._tiles))
        self._wanted: frozenset[str] = frozenset()
        self._sums: dict[str, Tensor] = {}
        self._found: dict[str, Tensor] = {}

    def last(self, parts: Arrays, layers: range) -> Arrays:
        outs = [pool.empty(tuple(part.shape), part.dtype) for part in parts]
        self._forward(parts, layers, outs, ())
        return outs

    def recorded(self, parts: Arrays, layers: range) -> tuple[Arrays, Record]:
        outs = [torch.empty_like(part) for part in parts]
        record = []
        for move in self._moves:
            record.append(self._kept(len(layers), self._widths[move.to]))
            if move.form is not None:
                record.append(self._kept(len(layers), move.form.inner))
        self._forward(parts, layers, outs, tuple(record))
        return outs, tuple(record)

    def _kept(self, layers: int, channels: int) -> Tensor:
        shape = (layers, self._tiles, channels, self._samples)
        return pool.empty(shape, self.problem.state[0].dtype)

    def saved(self, record: Record) -> tuple[Tensor, ...]:
        return record

    def restored(self, kept: tuple[Tensor, ...]) -> Record:
        return kept

    def want(self, controls: frozenset[str]) -> None:
        self._wanted = controls
        weights = [self.problem.controls[name] for name in controls if name[0] == "w"]
        if weights:
            bytes_apart = sum(weight.numel() * weight.element_size() for weight in weights)
            self._threads = min(self._threads, max(1, LARGEST_SUMS // bytes_apart))

    def pulled(self, parts: Arrays, record: Record, layers: range, costate: Arrays) -> Arrays:
        return self._backward(parts, layers, record, costate)

    def undone(self, parts: Arrays, costate: Arrays) -> Arrays:
        return self._backward(parts, range(self.problem.depth), (), costate)

    def totals(self) -> dict[str, Tensor]:
        totals = {}
        for name, sums in self._sums.items():
            total = sums[0]
            for each in sums[1:]:
                total.add_(each)
            like = self.problem.controls[name]
            total = total[..., : like.shape[-1]] if name[0] == "w" else total
            # A parameter keeps its gradient as it is: not as a view of the sums of every thread.
            whole = len(sums) == 1 and total.is_contiguous()
            totals[name] = total if whole else total.clone(memory_format=torch.contiguous_format)
        return totals

    def _forward(self, parts: Arrays, layers: range, outs: Arrays, record: Record) -> None:
        from keelnet.propagation.engines.blocks_forward import forward

        table = self._table.MoveTable(self.problem, straight=True, known=self._found)
        slot, widths, tall = self._slot, self._widths, self._samples
        block = self._block(table, layers, record)
        chunk = self._chunk(block, sum(widths) + widths[0])
        share = chunk * tall * (sum(widths) + widths[0]) + tall * self._inner
        share += 2 * int(block[slot.PACKED]) + 2 * self._inner + max(widths) + 4 * self._panel
        self._run(forward(self._bend, self._double), block, share, IN=parts, OUT=outs)

    def _backward(self, parts: Arrays, layers: range, record: Record, costate: Arrays) -> Arrays:
        from keelnet.propagation.engines.blocks_backward import backward

        table = self._table.MoveTable(self.problem, self._sum, straight=True, known=self._found)
        slot, column, tall = self._slot, self._column, self._samples
        named: set[str] = set()
        for row, move in reversed(list(table.each())):
            if move.form is not None:
                row[column.FIRST] = move.form.suffix not in named
                named.add(move.form.suffix)
        block = self._block(table, layers, record)
        adjoint, closed = (any(getattr(f, n) for f in self._forms) for n in ("adjoint", "closed"))
        turned = self._padded(max(self._inner, *self._widths)) * tall
        block[slot.TURNED], block[slot.REVERSIBLE] = turned, not record
        widths = 2 * sum(self._widths) + self._inner * (adjoint + closed) + turned // tall
        chunk = self._chunk(block, widths)
        block[slot.GROUP] = max(1, GROUP_BYTES // (tall * tall * costate[0].element_size()))
        share = chunk * (tall * 2 * (sum(self._widths) + self._inner) + turned)
        share += 2 * int(block[slot.PACKED]) + 2 * (self._inner + max(self._widths))
        pointers = np.empty(self._threads * len(layers) * len(self._moves), np.int64)
        block[slot.POINTERS] = pointers.ctypes.data
        outs = [torch.empty_like(part) for part in parts]
        kernel = backward(self._bend, self._double)
        self._run(kernel, block, share + 4 * self._panel, IN=parts, PULL=costate, PULLED=outs)
        return outs

    def _padded(self, channels: int) -> int:
        return -(-channels // self._samples) * self._samples

    def _sum(self, name: str, form: Form) -> Tensor | None:
        """Where a gradient is summed: a weight's rows are padded to whole panels, and begin afresh."""
        if name not in self._wanted:
            return None
        if name not in self._sums:
            like = self.problem.controls[name]
            if name[0] == "w":
                shape = (self._threads, *like.shape[:-1], self._padded(like.shape[-1]))
                self._sums[name] = pool.empty(shape, like.dtype)
            else:
                self._sums[name] = pool.zeros((self._threads, *like.shape), like.dtype)
        return self._sums[name]

    def _block(self, table: Any, layers: range, record: Record) -> Any:
        """What both kernels read."""
        slot, column = self._slot, self._column
        saved = iter(record)
        for row, move in table.each():
            if record:
                row[column.MOVED] = next(saved).data_ptr()
                row[column.KEEPS] = 0 if move.form is None else next(saved).data_ptr()
        block = np.zeros(int(slot.COUNT), np.int64)
        block[slot.THREADS], block[slot.BATCH] = self._threads, self._batch
        block[slot.BEGIN], block[slot.END] = layers.start, layers.stop
        block[slot.MOVES], block[slot.TABLE] = len(self._moves), table.rows.ctypes.data
        block[slot.SCALES], block[slot.SWAPS] = table.scales.ctypes.data, self.problem.swaps
        block[slot.ROWS_0] = self._widths[0]
        block[slot.ROWS_1] = self._widths[1] if len(self._widths) > 1 else 0
        block[slot.INNER] = self._inner
        block[slot.PACKED] = max(
            max(f.inputs * (f.inner + self._panel), f.inner * (f.inputs + self._panel))
            for f in self._forms
        )
        self._held = table  # as long as its addresses are in use
        return block

    def _chunk(self, block: Any, channels: int) -> int:
        """Tiles that go through a layer together, so that all their arrays stay in the cache."""
        size = self.problem.state[0].element_size() * self._samples * channels
        most = -(-self._tiles // self._threads)
        parts = -(-most // max(CHUNK_BYTES // size, PAYS))
        block[self._slot.CHUNK] = max(1, -(-most // parts))
        return int(block[self._slot.CHUNK])

    def _run(self, kernel: Any, block: Any, share: int, **parts: Arrays) -> None:
        """Fill in the addresses of the parts and of the scratch, and start the threads."""
        slot, lines = self._slot, 1024 // self.problem.state[0].element_size()
        for name, arrays in parts.items():
            for number, array in enumerate(arrays):
                block[slot[f"{name}_{number}"]] = array.data_ptr()
        share = -(-share // lines) * lines
        scratch = pool.empty((self._threads * share,), self.problem.state[0].dtype)
        block[slot.SHARE], block[slot.SCRATCH] = share, scratch.data_ptr()
        launch_all(kernel.address, block, int(slot.TICKET), self._threads)
