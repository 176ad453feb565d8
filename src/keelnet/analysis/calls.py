"""Calls: one call of a part of a network, as a map of its features alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from keelnet.dynamics.copies import copied

NARROW = (torch.float16, torch.bfloat16)  # their rounding hides what a block does to a perturbation


@dataclass(frozen=True, eq=False)
class Call:
    """y ↦ part(y), where a network called the part with features y; whatever else it was given stays.

    y is the first floating-point tensor among the arguments, by position, then by name. Of an answer of several
    tensors (a tuple, a dict) the first one of y's shape counts, else the first. Other tensors may hold one row a
    sample; with y of more samples than the call had they are repeated, so let such calls be of one sample.
    """

    part: nn.Module
    leaves: tuple[Any, ...]
    place: int
    structure: trees.TreeSpec

    @classmethod
    def of(cls, part: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Call | None:
        """None where no floating-point tensor was given."""
        leaves, structure = trees.tree_flatten((args, named))
        found = [place for place, each in enumerate(leaves) if _is_real(each)]
        if not found:
            return None
        kept = (each.detach() if isinstance(each, Tensor) else each for each in leaves)
        return cls(part, tuple(kept), found[0], structure)

    @property
    def y(self) -> Tensor:
        features: Tensor = self.leaves[self.place]
        return features

    @property
    def alone(self) -> bool:
        """Whether y is the only tensor that the part was given."""
        return sum(isinstance(each, Tensor) for each in self.leaves) == 1

    def __call__(self, y: Tensor) -> Tensor:
        """Raises ValueError where the part answers with no tensor."""
        leaves = [self._for(each, len(y)) for each in self.leaves]
        leaves[self.place] = y
        args, named = trees.tree_unflatten(leaves, self.structure)
        answer = answered(self.part(*args, **named), y.shape)
        if answer is None:
            raise ValueError(f"{type(self.part).__name__} answers with no tensor")
        return answer

    def precise(self) -> Call:
        """The same numbers in float32 where they are narrower."""
        if self.y.dtype not in NARROW:
            return self
        leaves = tuple(
            each.float() if _is_real(each) and each.dtype in NARROW else each
            for each in self.leaves
        )
        return Call(copied(self.part, {}).float(), leaves, self.place, self.structure)

    def _for(self, leaf: Any, samples: int) -> Any:
        """A row of one sample, repeated."""
        single = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == 1 == len(self.y)
        return leaf.expand(samples, *leaf.shape[1:]) if single else leaf


def answered(value: Any, shape: torch.Size) -> Tensor | None:
    """The tensor of an answer that continues features of this shape: the first of that shape, else the first."""
    tensors = [each for each in trees.tree_leaves(value) if _is_real(each)]
    same = [each for each in tensors if each.shape == shape]
    return next(iter(same + tensors), None)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
