"""Derivatives: how much a map moves its output when its input moves, without building a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from keelnet.analysis.singular import Derivative, extremes

Map = Callable[[Tensor], Tensor]


class Jacobian(Derivative):
    """J of a map at y, sample by sample: products J v and Jᵀ w from one evaluation.

    Jᵀ w is an ordinary pull-back; J v is the derivative of the linear map w ↦ Jᵀ w. The map must
    be differentiable twice by autograd (reversible and checkpointed propagation are not) and must
    treat the samples of a batch apart.
    """

    def __init__(self, function: Map, y: Tensor) -> None:
        self.function = function
        self.y = y.detach().requires_grad_()
        # Fused attention has no second derivative. A map may change its input in place: it gets a copy.
        with torch.enable_grad(), exact_attention():
            self.value = function(self.y.clone())
            self._costate = torch.zeros_like(self.value, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self.value, self.y, self._costate, create_graph=True
            )

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        if not self._pulled.requires_grad:  # a map of slope 0 everywhere
            return torch.zeros_like(self.value)
        return torch.autograd.grad(self._pulled, self._costate, v, retain_graph=True)[0]

    def pulled(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        return torch.autograd.grad(self.value, self.y, w, retain_graph=True)[0]

    def matrix(self) -> Tensor:
        """(samples, outputs, inputs), by one Jᵀ w for every output."""
        return torch.stack([matrix_of(self.function, sample[None]) for sample in self.y.detach()])


class Tangents(Derivative):
    """As `Jacobian`, in less memory: J v by forward mode beside the values, Jᵀ w from a graph that is not kept.

    A map with an operation that has no forward mode is differentiated twice instead, as there: the same products.
    """

    def __init__(self, function: Map, y: Tensor) -> None:
        self.function, self.y = function, y.detach()
        self._twice: Jacobian | None = None

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        if self._twice is None:
            try:
                with torch.no_grad(), exact_attention():
                    found: Tensor = torch.func.jvp(self._copied, (self.y,), (v,))[1]
                return found
            except NotImplementedError:
                # Torch has no forward derivative of some operation: two reverse passes give the same J v.
                self._twice = Jacobian(self.function, self.y)
        return self._twice.pushed(v)

    def _copied(self, y: Tensor) -> Tensor:
        return self.function(y.clone())

    def pulled(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        with torch.enable_grad(), exact_attention():
            leaf = self.y.detach().requires_grad_()
            return torch.autograd.grad(self.function(leaf.clone()), leaf, w)[0]

    def matrix(self) -> Tensor:
        """(samples, outputs, inputs), by one Jᵀ w for every output."""
        return torch.stack([matrix_of(self.function, sample[None]) for sample in self.y])


@contextmanager
def exact_attention() -> Iterator[None]:
    """Attention by plain operations: fused ones have no second derivative and no forward mode."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def matrix_of(function: Map, y: Tensor) -> Tensor:
    """The Jacobian (outputs, inputs) at one sample y (1, …).

    The sample is repeated once for every output, so that one pull-back gives every row.
    """
    with torch.no_grad():
        value = function(y.clone())
    rows = value.numel()
    identity = torch.eye(rows, dtype=value.dtype, device=value.device)
    with torch.enable_grad(), exact_attention():
        leaf = y.detach().repeat(rows, *(1,) * (y.ndim - 1)).requires_grad_()
        many = function(leaf.clone())
        (pulled,) = torch.autograd.grad(many, leaf, identity.reshape(many.shape))
    return pulled.reshape(rows, -1)


def largest_growth(function: Map, y: Tensor, iterations: int = 30, seed: int = 0) -> Tensor:
    """σ_max of the Jacobian at each sample of y, (samples,), from products with J and Jᵀ.

    A lower bound that converges from below; the seed draws the first direction.
    """
    found = extremes(Jacobian(function, y), iterations, seed, small=0)
    return torch.from_numpy(found.largest).to(y)
