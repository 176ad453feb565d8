"""The most memory that tensors made by a call held at one time."""

import weakref

import torch
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode


class Peak(TorchDispatchMode):
    """The most bytes that storages made inside held at one time."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in trees.tree_leaves(result):
            if isinstance(value, torch.Tensor) and not value._is_zerotensor():
                self._seen(value.untyped_storage())
        return result

    def _seen(self, storage):
        if storage._cdata not in self.alive and storage.nbytes():
            self.alive[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key):
        self.now -= self.alive.pop(key, 0)


def peak(function):
    with Peak() as mode:
        function()
    return mode.most
