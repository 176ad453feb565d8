"""Snapshots: what a network keeps besides its parameters, so that it is left as it was."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.parameter import is_lazy

# Attributes that count or remember.
PLAIN = (bool, int, float, complex, str, tuple, type(None), Tensor)
HOOKS = ("_backward_hooks", "_backward_pre_hooks")


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Whatever the network does to its buffers meanwhile, they are afterwards what they were.

    So are the plain attributes of a module whose buffers were changed, since they may tell of them (how far a table
    reaches, whether statistics were taken). A module that gets new parameters, buffers or parts keeps them, and all
    that it knows of them.
    """
    contents = {id(each): _Content.of(each) for each in _copied(network)}
    parts = (part for part in network.modules() if not isinstance(part, torch.jit.ScriptModule))
    bindings = [_Binding.of(part) for part in parts if part._buffers]
    try:
        yield
    finally:
        changed = {place for place, content in contents.items() if content.restored()}
        for binding in bindings:
            binding.restore(changed)


@contextmanager
def unhooked(network: nn.Module) -> Iterator[None]:
    """No hook hears of gradients meanwhile: those taken here are not those of a training."""
    places = [vars(part).get(name) for part in network.modules() for name in HOOKS]
    places += [modules._global_backward_hooks, modules._global_backward_pre_hooks]
    kept = [(place, dict(place)) for place in places if place]
    for place, _ in kept:
        place.clear()
    try:
        yield
    finally:
        for place, hooks in kept:
            place.update(hooks)


@dataclass(frozen=True, eq=False)
class _Content:
    """The numbers of a buffer."""

    buffer: Tensor
    copy: Tensor

    @classmethod
    def of(cls, buffer: Tensor) -> _Content:
        return cls(buffer, buffer.detach().clone())

    @torch.no_grad()
    def restored(self) -> bool:
        """Whether there was something to restore."""
        if self.buffer.shape == self.copy.shape and _same(self.buffer, self.copy):
            return False  # also where it was expanded, which cannot be written to
        if self.buffer.shape != self.copy.shape:
            self.buffer.resize_(self.copy.shape)
        self.buffer.copy_(self.copy)
        return True


def _copied(network: nn.Module) -> list[Tensor]:
    """Buffers whose numbers can be copied and compared."""
    return [
        each
        for each in network.buffers()
        if not (is_lazy(each) or each.is_meta or each.is_quantized) and each.layout is torch.strided
    ]


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())


@dataclass(frozen=True, eq=False)
class _Binding:
    """Which tensors a module's buffers are, and its plain attributes."""

    module: nn.Module
    registered: tuple[frozenset[str], ...]
    buffers: dict[str, Tensor | None]
    plain: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module) -> _Binding:
        plain = {name: value for name, value in vars(module).items() if isinstance(value, PLAIN)}
        return cls(module, _registered(module), dict(module._buffers), plain)

    def restore(self, changed: Container[int]) -> None:
        now = self.module._buffers
        known = all(
            now.get(name) is own and id(own) not in changed for name, own in self.buffers.items()
        )
        if not known and _registered(self.module) == self.registered:
            now.update(self.buffers)
            vars(self.module).update(self.plain)


def _registered(module: nn.Module) -> tuple[frozenset[str], ...]:
    held = (name for name, own in module._parameters.items() if own is not None)
    return frozenset(held), frozenset(module._buffers), frozenset(module._modules)
