"""Memory: the bytes that a computation keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode


def saved_bytes(function: Callable[[], object], excluded: Iterable[Tensor] = ()) -> int:
    """Bytes of the distinct storages that ``function`` leaves behind for the backward pass.

    Counted are storages given to saved-tensor hooks (inputs among them) and storages made inside
    the call that are still alive while its result is: checkpointing keeps its states past the
    hooks. The result itself counts only if it is saved. ``excluded`` (the parameters) do not count: they exist whatever the strategy.
    """
    own = {value.untyped_storage().data_ptr() for value in excluded}
    saved: dict[int, Tensor] = {}
    made = _Made()  # type: ignore[no-untyped-call]

    def pack(value: Tensor) -> Tensor:
        saved[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), made:
        result = function()
    sizes = {address: value.untyped_storage().nbytes() for address, value in saved.items()}
    returned = {value.untyped_storage().data_ptr() for value in _tensors(result)}
    alive = made.alive()
    sizes |= {address: alive[address] for address in alive.keys() - returned}
    return sum(size for address, size in sizes.items() if address not in own)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in trees.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _weak(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


class _Made(TorchDispatchMode):
    """Remembers, without keeping it alive, every storage that an operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {value.untyped_storage().data_ptr() for value in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for value in _tensors(result):
            storage = value.untyped_storage()
            if storage.data_ptr() not in given:
                self.storages[storage.data_ptr()] = (_weak(storage), storage.nbytes())
        return result

    def alive(self) -> dict[int, int]:
        """Bytes of each storage that something still holds, by address."""
        return {
            address: size
            for address, (reference, size) in self.storages.items()
            if not reference.expired()  # type: ignore[no-untyped-call]
        }
