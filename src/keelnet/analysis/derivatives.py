"""Derivatives: how much a map moves its output when its input moves, without building a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from keelnet.analysis.linear import linearised
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
                paired(self.value, self._costate), self.y, create_graph=True
            )

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        if not self._pulled.requires_grad:  # a map of slope 0 everywhere
            return torch.zeros_like(self.value)
        with torch.enable_grad():
            product = paired(self._pulled, v)
        return torch.autograd.grad(product, self._costate, retain_graph=True)[0]

    def pulled(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        with torch.enable_grad():
            product = paired(self.value, w)
        return torch.autograd.grad(product, self.y, retain_graph=True)[0]

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
                with torch.no_grad(), exact_attention(), forward_ad.dual_level():
                    return tangent_of(self.function(dual(self.y, v).clone()))
            except NotImplementedError:
                # Torch has no forward derivative of some operation: two reverse passes give the same J v.
                self._twice = Jacobian(self.function, self.y)
        return self._twice.pushed(v)

    def pulled(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        with torch.enable_grad(), exact_attention():
            leaf = self.y.detach().requires_grad_()
            return torch.autograd.grad(paired(self.function(leaf.clone()), w), leaf)[0]

    def matrix(self) -> Tensor:
        """(samples, outputs, inputs), by one Jᵀ w for every output."""
        return torch.stack([matrix_of(self.function, sample[None]) for sample in self.y])


def differentiated(function: Map, y: Tensor) -> Derivative:
    """J by one graph that is kept, as `Jacobian`; where the map cannot be differentiated twice, as `Tangents`.

    Parameters are constants (`linearised`), so that the graph is little more than the slopes of the activations.
    """
    same = linearised(function)
    try:
        jacobian = Jacobian(same, y)
        jacobian.pushed(torch.zeros_like(jacobian.y))
    except RuntimeError as reason:
        if "differentiat" not in str(reason) and "derivative" not in str(reason):
            raise
        return Tangents(same, y)
    return jacobian


def dual(y: Tensor, tangent: Tensor) -> Tensor:
    """y + ε · tangent, inside a ``dual_level``.

    As ``forward_ad.make_dual``, which first loads 800 modules (100 MB) for derivatives of derivatives that are not
    taken here.
    """
    level = forward_ad._current_level
    made: Tensor = torch._VF._make_dual(y, tangent, level=level)  # type: ignore[attr-defined]
    return made


def tangent_of(y: Tensor) -> Tensor:
    """The factor of ε; 0 where the map does not depend on its input."""
    primal, tangent = forward_ad.unpack_dual(y)  # type: ignore[no-untyped-call]
    return torch.zeros_like(primal) if tangent is None else tangent


def paired(x: Tensor, costate: Tensor) -> Tensor:
    """⟨x, costate⟩, whose gradient by what x depends on is that of x for this costate.

    Torch loads a computer algebra (60 MB) where it is given a costate; of a number it needs none.
    """
    return torch.dot(x.reshape(-1), costate.reshape(-1))


def moving(y: Tensor) -> Tensor:
    """y itself where it has a tangent, else y + ε · 0."""
    known = forward_ad.unpack_dual(y).tangent is not None  # type: ignore[no-untyped-call]
    whole = y.contiguous()  # what was expanded cannot be written to
    return y if known else dual(whole, torch.zeros_like(whole))


@contextmanager
def exact_attention() -> Iterator[None]:
    """Attention by plain operations: fused ones have no second derivative and no forward mode."""
    with plain_layers(), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def plain_layers() -> Iterator[None]:
    """Torch's transformers layer by layer: fused for inference they hand on nested tensors, which have no shape."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
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
        (pulled,) = torch.autograd.grad(paired(many, identity), leaf)
    return pulled.reshape(rows, -1)


def largest_growth(function: Map, y: Tensor, iterations: int = 30, seed: int = 0) -> Tensor:
    """σ_max of the Jacobian at each sample of y, (samples,), from products with J and Jᵀ.

    A lower bound that converges from below; the seed draws the first direction.
    """
    found = extremes(Jacobian(function, y), iterations, seed, small=0)
    return torch.from_numpy(found.largest).to(y)
