"""memcnn: an additive coupling a layer under InvertibleModuleWrapper; one-kernel Verlet exactly.

The halves are (z, y): z ← z + F(y) with F(y) = −h tanh(y K), then y ← y + G(z) with
G(z) = h tanh(z Kᵀ). The wrapper frees each layer's input and computes it again.
"""

from __future__ import annotations

from collections.abc import Iterator

import memcnn
import numpy as np
import torch
from cases import Case, Pass
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from contenders.eager import CONVOLUTIONS
from contenders.task import RefusedError
from contenders.torch_task import TorchTask, leaves


class Kick(nn.Module):
    """± h tanh of a convolution or its adjoint; the weight may be another module's too."""

    def __init__(self, weight: nn.Parameter, scale: float, dim: int, adjoint: bool) -> None:
        super().__init__()
        self.weight, self.scale = weight, scale
        self.map = CONVOLUTIONS[dim][adjoint]

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.tanh(self.map(x, self.weight, padding=1))


def coupling(weight: nn.Parameter, case: Case) -> nn.Module:
    """One layer on (z, y) joined."""
    h = case.step_size
    return memcnn.AdditiveCoupling(
        Kick(weight, -h, case.dim, adjoint=False), Kick(weight, h, case.dim, adjoint=True)
    )


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> TorchTask:
    if not case.dim or case.scheme != "verlet":
        raise RefusedError("its couplings split the channels of images")
    y0, weights, cotangent = leaves(case, numbers, pass_)
    parameters = [nn.Parameter(one, requires_grad=one.requires_grad) for one in weights]
    layers = [memcnn.InvertibleModuleWrapper(coupling(one, case)) for one in parameters]
    return CouplingTask(
        lambda: turned(nn.Sequential(*layers)(turned(y0))), y0, parameters, cotangent, pass_
    )


class CouplingTask(TorchTask):
    """Counts what the wrapper keeps in its own lists, past the hooks of autograd."""

    def saved(self) -> tuple[int, str] | None:
        """A freed storage is still there, with no bytes: only its size now tells."""
        nodes, seen, kept = [self.forward().grad_fn], set(), {}
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
            for value in _tensors_of(node):
                storage = value.untyped_storage()
                kept[storage._cdata] = storage.nbytes()
        return sum(kept.values()), "storages held by the nodes of the graph"


def _tensors_of(node: object) -> Iterator[Tensor]:
    """Saved by autograd (``_saved_*``) and in the wrapper's lists of tuples."""
    own = [*vars(node).values()] if hasattr(node, "__dict__") else []
    own += [getattr(node, name) for name in dir(node) if name.startswith("_saved")]
    for leaf in tree_leaves(own):
        if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter):
            yield leaf


def turned(state: Tensor) -> Tensor:
    """(y, z) to (z, y) and back; a copy, for the wrapper frees what it is given."""
    return torch.cat(torch.chunk(state, 2, dim=1)[::-1], dim=1)
