"""Holders: values that hold modules or parameters, for whoever owns the value (a Block) to register."""

from __future__ import annotations

import copy
import random
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Own = TypeVar("Own", bound="Holder")
Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

# Where no generator lies, which is most of what there is: numbers, and what every module has (hooks).
EVERY = frozenset(vars(nn.Module()))
MOST = 1000  # values of an owner that are looked into: it may hold a whole data set
PLAIN = frozenset([bool, int, float, str, type(None), Tensor, nn.Parameter])


class Holder(ABC):  # noqa: B024 - most hold nothing
    """What a Block is made of beside its control: a field, a method, and what they are made of."""

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        """What has a mode, a memory or a gradient of its own, for a Block to register."""
        return {}

    def holding(self: Own, parts: Mapping[str, object]) -> Own:
        """The same with these in the place of what it holds by these names."""
        new = copy.copy(self)
        for key in [*vars(new)]:
            if isinstance(getattr(type(self), key, None), cached_property):
                del vars(new)[key]  # it was made of what is replaced
        held = self.held()
        for name, part in parts.items():
            places = [key for key, value in vars(self).items() if value is held[name]]
            if not places:
                raise ValueError(
                    f"{type(self).__name__} holds {name}, but in no attribute of its own: override holding"
                )
            for key in places:
                object.__setattr__(new, key, part)
        return new

    def remembered(self) -> Iterator[tuple[str, Tensor]]:
        """What an evaluation may change: the buffers of the modules that are held, by name."""
        for name, part in self.held().items():
            if isinstance(part, nn.Module):
                yield from part.named_buffers(name)

    def generators(self) -> Iterator[Generator]:
        """What an evaluation may draw from: the generators in attributes of its own and of its modules.

        Also those in lists, tuples, dicts and plain objects there, in closures, and those whose methods lie there.
        """
        owners: list[object] = [self, *self.held().values()]
        for owner in owners:  # which grows meanwhile; modules() takes several times as long
            kept = vars(owner).copy()  # at once: another thread may set attributes
            yield from _generators_among([kept[name] for name in kept if name not in EVERY])
            owners += [
                each for each in vars(owner).get("_modules", {}).values() if each is not None
            ]


def _generators_among(values: list[object]) -> Iterator[Generator]:
    met: set[int] = set()  # a list may lie in itself
    for value in values:  # which grows meanwhile
        if type(value) in PLAIN or id(value) in met:
            continue
        met.add(id(value))
        if isinstance(value, Generator):
            yield value
        elif len(values) < MOST:
            values += _within(value)


def _within(value: object) -> Iterable[object]:
    """What a value is made of, as far as an evaluation may draw from it."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (MethodType, BuiltinMethodType)):
        return [value.__self__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return [cell.cell_contents for cell in cells if cell != CellType()]  # an empty one has none
    if isinstance(value, (nn.Module, Tensor, type, ModuleType)):
        return ()
    return list(getattr(value, "__dict__", {}).values())
