"""Memory: the bytes that a computation keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(function: Callable[[], object], excluded: Iterable[Tensor] = ()) -> int:
    """Bytes of the distinct storages saved for backward while ``function`` runs.

    ``excluded`` (the parameters) do not count: they exist whatever the strategy.
    """
    own = {value.untyped_storage().data_ptr() for value in excluded}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address could be given out again

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        function()
    return sum(sizes.values())
