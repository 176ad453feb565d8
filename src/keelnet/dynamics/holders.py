"""Holders: values that hold modules or parameters, for whoever owns the value (a Block) to register."""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Own = TypeVar("Own", bound="Holder")


class Holder(ABC):  # noqa: B024 - most hold nothing
    """What a Block is made of beside its control: a field, a method, and what they are made of."""

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        """What has a mode, a memory or a gradient of its own, for a Block to register."""
        return {}

    def holding(self: Own, parts: Mapping[str, object]) -> Own:
        """The same with these in the place of what it holds by these names."""
        new = copy.copy(self)
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

    def generators(self) -> Iterator[torch.Generator]:
        """What an evaluation may draw from beside the common generators: those in attributes of its own and of its modules."""
        owners: list[object] = [self, *self.held().values()]
        for owner in owners:  # which grows meanwhile; modules() takes several times as long
            kept = [*vars(owner).values()]  # at once: another thread may set attributes
            if torch.Generator in map(type, kept):
                yield from (value for value in kept if isinstance(value, torch.Generator))
            owners += [
                each for each in vars(owner).get("_modules", {}).values() if each is not None
            ]
