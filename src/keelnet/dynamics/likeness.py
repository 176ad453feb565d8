"""Likeness: whether modules differ in nothing but the numbers of their parameters, so that one can run for all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

_PLAIN = (bool, int, float, str, torch.dtype, type(None))
_FUNCTIONS = (FunctionType, BuiltinFunctionType)


def require_alike(modules: Sequence[nn.Module]) -> None:
    """Raise ValueError unless every module computes what the first one does when given its parameters.

    Compared are the names and shapes of parameters, the kinds of parts, their public attributes (numbers,
    strings, sequences of them, functions by name) and buffers. What other objects and closures hide is not seen.
    """
    first = _Description.of(modules[0])
    for module in modules[1:]:
        other = _Description.of(module)
        if other.shapes != first.shapes:
            raise ValueError(
                "the modules need parameters with the same names and shapes; make one Block a shape"
            )
        found = _difference(first, other)
        if found is not None:
            raise ValueError(
                f"the modules differ ({found}), but a Block runs every layer by the first; make them alike"
                " (delete an attribute that is a name alone), or one Block of each and join them by nn.Sequential"
            )


class _Description(NamedTuple):
    shapes: dict[str, torch.Size]
    parts: list[tuple[str, nn.Module | None, dict[str, Any]]]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> _Description:
        return cls(
            {name: value.shape for name, value in module.named_parameters()},
            [(name, part, _settings(part)) for name, part in module.named_modules()],
            dict(module.named_buffers()),
        )


def _difference(first: _Description, other: _Description) -> str | None:
    """The first difference in words, "dilation of block.c: (1,) and (2,)"; None where none was found."""
    for (name, one, plain), (own, two, others) in zip_longest(
        first.parts, other.parts, fillvalue=("", None, {})
    ):
        if own != name or _kind(one) != _kind(two):
            return f"{name or own or 'the top'}: {type(one).__name__} and {type(two).__name__}"
        where = f"of {name}" if name else "at the top"
        if isinstance(one, _NormBase) and one.track_running_stats:
            return f"running statistics {where}, a {type(one).__name__}, are a layer's own"
        for key in plain | others:
            if plain.get(key) != others.get(key):
                return f"{key} {where}: {plain.get(key)} and {others.get(key)}"
    for key in first.buffers | other.buffers:
        if not _equal(first.buffers.get(key), other.buffers.get(key)):
            return f"buffer {key}"
    return None


def _kind(module: nn.Module | None) -> tuple[str, str]:
    """By name: torch makes a new class for each module with a parametrization."""
    return type(module).__module__, type(module).__qualname__


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(module).items() if name[0] != "_"}


def _plain(value: Any) -> Any:
    """Functions by their names, other objects by their kinds."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if isinstance(value, _FUNCTIONS):
        return value.__qualname__
    return value if isinstance(value, _PLAIN) else type(value).__qualname__


def _equal(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None or one is two:
        return (
            one is two
        )  # the same, without a look at the numbers, for which a GPU would have to wait
    return one.dtype == two.dtype and one.device == two.device and torch.equal(one, two)
