"""What a sweep's forward pass leaves for the way back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from keelnet.propagation.problem import Move


@dataclass
class Record:
    """What the layers of one stretch leave: for each move the moved part, and what f leaves."""

    moved: list[Tensor]  # a move: (layers, rows, channels)
    kept: list[Tensor | None]
    before: list[Tensor | None]  # under a norm: what went into it

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that there is, in the order in which `of` reads it."""
        return tuple(x for x in (*self.moved, *self.kept, *self.before) if x is not None)

    @classmethod
    def of(cls, kept: tuple[Tensor, ...], moves: tuple[Move, ...]) -> Record:
        """The record whose ``tensors`` these are."""
        saved = iter(kept)
        forms = [move.form for move in moves]
        moved = [next(saved) for _ in forms]
        values = [None if form is None else next(saved) for form in forms]
        normed = [form is not None and form.norm is not None for form in forms]
        return cls(moved, values, [next(saved) if each else None for each in normed])
