"""torch.compile of one layer, called in a loop: PyTorch's advice for layers that repeat.

Compiling the whole network gives the same fusions between products and takes minutes at depth 1000.
"""

from __future__ import annotations

import shutil

import numpy as np
import torch
from cases import Case, Pass

from contenders.eager import layer_of, looped
from contenders.task import RefusedError
from contenders.torch_task import TorchTask


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise RefusedError("torch.compile needs a C++ compiler and none is installed")
    torch._dynamo.reset()  # else the recompilations of one case count against the next
    layer = torch.compile(layer_of(case), dynamic=False, fullgraph=True)
    task = looped(case, numbers, "autograd", pass_, layer)
    return CompiledTask(task.forward, task.y0, task.weights, task.cotangent, pass_)


class CompiledTask(TorchTask):
    """Counted by hooks alone: a dispatch mode does not go with a compiled function."""

    def saved(self) -> tuple[int, str] | None:
        own = {weight.untyped_storage().data_ptr() for weight in self.weights}
        kept: dict[int, int] = {}

        def pack(value: torch.Tensor) -> torch.Tensor:
            storage = value.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            y = self.forward()  # held, so that no address is given out twice
        count = sum(size for address, size in kept.items() if address not in own)
        del y
        return count, "storages given to saved-tensor hooks"
