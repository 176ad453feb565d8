"""Derivatives: how much a map moves its output when its input moves, without building a matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Map = Callable[[Tensor], Tensor]


class Jacobian:
    """J of a map at y, sample by sample: products J v and Jᵀ w from one evaluation.

    Jᵀ w is an ordinary pull-back; J v is the derivative of the linear map w ↦ Jᵀ w. The map must
    be differentiable twice by autograd (reversible and checkpointed propagation are not) and must
    treat the samples of a batch apart.
    """

    def __init__(self, function: Map, y: Tensor) -> None:
        self.y = y.detach().requires_grad_()
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self.value = function(self.y)
            self._costate = torch.zeros_like(self.value, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self.value, self.y, self._costate, create_graph=True
            )

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        return torch.autograd.grad(self._pulled, self._costate, v, retain_graph=True)[0]

    def pulled(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        return torch.autograd.grad(self.value, self.y, w, retain_graph=True)[0]


def largest_growth(function: Map, y: Tensor, iterations: int = 30, seed: int = 0) -> Tensor:
    """σ_max of the Jacobian at each sample of y, (samples,), by power iteration on Jᵀ J.

    A lower bound that converges from below; the seed draws the first direction.
    """
    jacobian = Jacobian(function, y)
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(y.shape, generator=generator).to(y)
    growth = torch.zeros(len(y))
    for _ in range(iterations):
        v = v / _norms(v)
        w = jacobian.pushed(v)
        growth = _norms(w).flatten()
        v = jacobian.pulled(w)
    return growth


def _norms(x: Tensor) -> Tensor:
    """Of each sample, shaped to divide; never 0."""
    norms = x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
    return norms.reshape(-1, *(1,) * (x.ndim - 1))
