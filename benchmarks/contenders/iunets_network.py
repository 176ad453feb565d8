"""iUNets: an invertible U-Net whose modules are our layers, half on the way down, half up.

It wants two levels at least: the lower one is left empty. Its learnable resampling begins with a
Haar transform and its inverse, its channel mixing with the identity, so the mathematics agree.
"""

from __future__ import annotations

import numpy as np
from cases import Case, Pass
from iunets import iUNet
from torch import nn

from contenders.memcnn_coupling import CouplingTask, coupling, turned
from contenders.task import RefusedError
from contenders.torch_task import leaves


def prepare(case: Case, numbers: dict[str, np.ndarray], method: str, pass_: Pass) -> CouplingTask:
    if not case.dim or case.scheme != "verlet":
        raise RefusedError("its networks are for images")
    y0, weights, cotangent = leaves(case, numbers, pass_)
    half = case.depth // 2
    if case.depth % 2 or case.side % 2:
        raise RefusedError("it wants an even depth and an even grid")
    parameters = [nn.Parameter(one, requires_grad=one.requires_grad) for one in weights]

    def module(channels: int, module_index: int, LR: str, **where: object) -> nn.Module:  # noqa: N803
        """The next layer of the way down (L) or up (R)."""
        return coupling(parameters[module_index + (LR == "R") * half], case)

    network = iUNet(
        case.inputs + case.outputs,
        architecture=(half, 0),
        dim=case.dim,
        create_module_fn=module,
        verbose=0,
    )
    return CouplingTask(lambda: turned(network(turned(y0))), y0, parameters, cotangent, pass_)
