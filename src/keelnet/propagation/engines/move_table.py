"""The table of moves that compiled kernels read: where each form's weight and bias lie, and where their gradients go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.propagation.engines.effective import effective_weight
from keelnet.propagation.engines.layout import Column
from keelnet.propagation.problem import Problem

Sums = Callable[[str, Form], Tensor | None]


class MoveTable:
    """A row of ``Column`` a move, and the tensors behind its addresses, which it keeps alive.

    ``sums`` gives the place for the gradient of a control, each thread apart on its first axis; None
    where none is wanted. ``straight`` copies a weight that is contiguous neither along nor across. ``known``
    are the weights and biases that an earlier table of the same problem found.
    """

    def __init__(
        self,
        problem: Problem,
        sums: Sums = lambda *_: None,
        straight: bool = False,
        known: dict[str, Tensor] | None = None,
    ) -> None:
        self.problem, self.moves, self._straight = problem, problem.tabled, straight
        self.rows = np.zeros((len(self.moves[0]), int(Column.COUNT)), np.int64)
        self.scales = np.array([move.scale for moves in self.moves for move in moves], np.float64)
        signs = [1.0 if move.form is None else move.form.sign for m in self.moves for move in m]
        self.scales = self.scales * signs
        self._controls: dict[str, Tensor] = {} if known is None else known
        for row, move in self.each():
            row[Column.TO], row[Column.OF] = move.to, move.of
            if move.form is not None:
                self._fill(row, move.form, sums)

    def each(self) -> Iterator[tuple[Any, Any]]:
        """Each row with its move."""
        return zip(self.rows, self.moves[0], strict=True)

    def _fill(self, row: Any, form: Form, sums: Sums) -> None:
        row[Column.KIND] = 2 if form.closed else 1
        row[Column.INPUTS], row[Column.INNER] = form.inputs, form.inner
        row[Column.ADJOINT] = form.adjoint
        weight = self._weight(form)
        row[Column.WEIGHT], row[Column.WEIGHT_STEP] = weight.data_ptr(), weight.stride(0)
        across, down = weight.stride()[1:]
        row[Column.ACROSS], row[Column.DOWN] = (down, across) if form.adjoint else (across, down)
        self._bias(row, form)
        for kind, address, share in (
            ("weight", Column.WEIGHT_SUMS, Column.WEIGHT_SHARE),
            ("bias", Column.BIAS_SUMS, Column.BIAS_SHARE),
        ):
            total = sums(f"{kind}{form.suffix}", form)
            if total is not None:
                row[address], row[share] = total.data_ptr(), total[0].numel()

    def _weight(self, form: Form) -> Tensor:
        name = f"weight{form.suffix}"
        if name not in self._controls:
            weight = effective_weight(form, self.problem.controls[name].detach().resolve_neg())
            if self._straight and 1 not in weight.stride()[1:]:
                weight = weight.contiguous()
            self._controls[name] = weight
        return self._controls[name]

    def _bias(self, row: Any, form: Form) -> None:
        name = f"bias{form.suffix}"
        if name not in self.problem.controls:
            return
        if name not in self._controls:
            bias = self.problem.controls[name].detach().resolve_neg()
            # A stride of 0 stands for one number a layer.
            spread = bias.ndim == 2 and bias.stride(1) == 0
            self._controls[name] = bias.contiguous() if spread else bias
        bias = self._controls[name]
        row[Column.BIAS], row[Column.BIAS_STEP] = bias.data_ptr(), bias.stride(0)
        row[Column.BIAS_STRIDE] = max(1, bias.stride(1)) if bias.ndim == 2 else 0
