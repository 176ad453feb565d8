"""Calls: one call of a part of a network, as a map of its features alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from keelnet.dynamics.copies import copied

# What a part may raise that is given less, or something else, than it can do with.
REFUSALS = (RuntimeError, TypeError, LookupError, AttributeError, ValueError, AssertionError)
NARROW = (torch.float16, torch.bfloat16)  # their rounding hides what a block does to a perturbation


@dataclass(frozen=True, eq=False)
class Call:
    """y ↦ part(y), where a network called the part with features y; whatever else it was given stays.

    y is the first tensor of floating-point numbers with two axes or more (no time, no weight), among the arguments, by
    position, then by name; without any, the first with one. Of an answer of several tensors (a tuple, a dict) the first
    one of y's shape counts, else the first such. Other tensors may hold one row a sample; with y of more samples than the call had they are repeated, so
    let such calls be of one sample. ``recording``: the forward differentiates itself, so that it runs nowhere but where
    autograd records. ``together``: all rows of what the part was given are one sample, since it cannot do with fewer.
    """

    part: nn.Module
    leaves: tuple[Any, ...]
    place: int
    structure: trees.TreeSpec
    recording: bool = False
    together: bool = False

    @classmethod
    def of(
        cls,
        part: nn.Module,
        args: tuple[Any, ...],
        named: dict[str, Any],
        recording: bool = False,
    ) -> Call | None:
        """None where no features were given."""
        leaves, structure = trees.tree_flatten((args, named))
        features = next(iter(features_among(leaves)), None)
        if features is None:
            return None
        place = next(place for place, each in enumerate(leaves) if each is features)
        return cls(part, tuple(map(_recordable, leaves)), place, structure, recording)

    @property
    def y(self) -> Tensor:
        features: Tensor = self.leaves[self.place]
        return features[None] if self.together else features

    @property
    def alone(self) -> bool:
        """Whether y is the only tensor that the part was given, single numbers apart."""
        return sum(isinstance(each, Tensor) and each.ndim > 0 for each in self.leaves) == 1

    @property
    def divisible(self) -> bool:
        """Whether the part takes the first row of what it was given alone, and answers with one."""
        if len(self.y) == 1:
            return True
        try:
            with torch.no_grad():
                answer = self(self.y[:1].clone())
        except REFUSALS:
            return False
        return len(answer) == 1  # rows of another tensor, one a frame, may have been added to it

    def __call__(self, y: Tensor) -> Tensor:
        """Raises ValueError where the part answers with no tensor."""
        if self.together:
            return torch.stack([self._answer(each) for each in y])
        return self._answer(y)

    def _answer(self, y: Tensor) -> Tensor:
        leaves = [self._for(each, len(y)) for each in self.leaves]
        leaves[self.place] = y
        args, named = trees.tree_unflatten(leaves, self.structure)
        wanted = torch.is_grad_enabled()
        with torch.set_grad_enabled(wanted or self.recording):
            answer = answered(self.part(*args, **named), y.shape)
        if answer is None:
            raise ValueError(f"{type(self.part).__name__} answers with no tensor")
        return answer.detach() if self.recording and not wanted else answer

    def precise(self) -> Call:
        """The same numbers in float32 where they are narrower."""
        if self.y.dtype not in NARROW:
            return self
        leaves = tuple(
            each.float() if _is_real(each) and each.dtype in NARROW else each
            for each in self.leaves
        )
        return replace(self, part=copied(self.part, {}).float(), leaves=leaves)

    def _for(self, leaf: Any, samples: int) -> Any:
        """A row of one sample, repeated. The part may change in place what it is given, so it gets copies."""
        if not isinstance(leaf, Tensor):
            return leaf
        single = leaf.ndim > 0 and len(leaf) == 1 == len(self.leaves[self.place])
        return (leaf.expand(samples, *leaf.shape[1:]) if single else leaf).clone()


def answered(value: Any, shape: torch.Size) -> Tensor | None:
    """The tensor of an answer that continues features of this shape: the first of that shape, else the first."""
    tensors = features_among(value)
    same = [each for each in tensors if each.shape == shape]
    return next(iter(same + tensors), None)


def features_among(value: Any) -> list[Tensor]:
    """The tensors of floating-point numbers in nested tuples, lists and dicts, single numbers apart: those of one axis last.

    These may be times, one in all or one a sample.
    """
    found = [each for each in trees.tree_leaves(value) if _is_real(each) and each.ndim > 0]
    return sorted(found, key=lambda each: each.ndim == 1)


def _recordable(leaf: Any) -> Any:
    """Without its graph; a copy of what was made in inference mode."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.clone() if leaf.is_inference() else leaf.detach()


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
