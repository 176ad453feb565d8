"""What the contenders on PyTorch share: leaves, a forward pass, ordinary backward()."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from cases import BACKWARD, Case, Pass
from torch import Tensor

from contenders.task import Task

torch.set_num_threads(2)


class TorchTask(Task):
    """``forward()`` gives y(T) of ``y0`` and ``weights`` (a leaf a layer, or one for all)."""

    def __init__(
        self,
        forward: Callable[[], Tensor],
        y0: Tensor,
        weights: Sequence[Tensor],
        cotangent: Tensor,
        pass_: Pass,
        note: str = "",
    ) -> None:
        self.forward, self.y0, self.weights, self.cotangent = forward, y0, weights, cotangent
        self.backward = pass_ == BACKWARD
        self.note = note

    def run(self) -> None:
        self._run(self.cotangent)

    def _run(self, cotangent: Tensor) -> Tensor:
        if not self.backward:
            with torch.no_grad():
                return self.forward()
        y = self.forward()
        y.backward(cotangent)
        return y

    def rest(self) -> None:
        for one in (self.y0, *self.weights):
            one.grad = None

    def outcome(self, cotangent: np.ndarray) -> dict[str, np.ndarray] | None:
        given = torch.from_numpy(cotangent)
        self.rest()
        y = self._run(arranged(given))
        result = {"y": y.detach().numpy()}
        if self.backward:
            grads = [one.grad for one in self.weights]
            whole = torch.stack(grads) if len(grads) > 1 else grads[0]
            result |= {"weight": whole.numpy(), "y0": self.y0.grad.numpy()}
        return result

    def saved(self) -> tuple[int, str] | None:
        from keelnet.analysis.memory import saved_bytes

        count = saved_bytes(self.forward, excluded=self.weights)
        return count, "storages held by saved tensors and closures"


def arranged(value: Tensor) -> Tensor:
    """Channels last where there is a grid."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return value.contiguous(memory_format=formats.get(value.ndim, torch.contiguous_format))


def leaves(
    case: Case, numbers: dict[str, np.ndarray], pass_: Pass
) -> tuple[Tensor, list[Tensor], Tensor]:
    """y0, a weight a layer, the cotangent."""
    wants = pass_ == BACKWARD
    y0 = arranged(torch.from_numpy(numbers["y0"])).detach().requires_grad_(wants)
    weights = [torch.from_numpy(one).requires_grad_(wants) for one in numbers["weight"]]
    return y0, weights, arranged(torch.from_numpy(numbers["cotangent"]))
