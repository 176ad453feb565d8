"""Derivatives: how much a map moves its output when its input moves, without building a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from keelnet.analysis.linear import Applied, linearised
from keelnet.analysis.singular import DENSE, Derivative, direction

Map = Callable[[Tensor], Tensor]
DRAWN = 5  # directions along which two products are compared
AGREE = 1e-3  # of ⟨J v, w⟩ and ⟨v, Jᵀ w⟩: what rounding and a slope at a kink leave


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


class Recomputed(Derivative):
    """J of a map at y by products that begin anew each time: less memory than a graph that is kept."""

    def __init__(self, function: Map, y: Tensor) -> None:
        self.function, self.y = function, y.detach()

    @cached_property
    def value(self) -> Tensor:
        with torch.no_grad(), exact_attention():
            return self.function(self.y.clone())

    def pulled(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        with torch.enable_grad(), exact_attention():
            leaf = self.y.detach().requires_grad_()
            return torch.autograd.grad(paired(self.function(leaf.clone()), w), leaf)[0]

    def matrices(self) -> Iterator[Tensor]:
        return (matrix_of(self.function, sample[None]) for sample in self.y)

    def matrix(self) -> Tensor:
        """(samples, outputs, inputs), by one Jᵀ w for every output."""
        return torch.stack(list(self.matrices()))


class Tangents(Recomputed):
    """As `Jacobian`, with J v by forward mode beside the values: NotImplementedError where an operation has none."""

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        with torch.no_grad(), exact_attention(), forward_ad.dual_level():
            return tangent_of(self.function(dual(self.y, v).clone()))


class Rows(Recomputed):
    """As `Jacobian`, by one Jᵀ w for every row: of maps of few numbers of which autograd knows nothing else."""

    whole = DENSE

    @cached_property
    def _matrix(self) -> Tensor:
        return self.matrix()

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        return torch.einsum("bij,bj->bi", self._matrix, v.flatten(1)).reshape(self.value.shape)


class Quotients(Recomputed):
    """J v ≈ (f(y + ε v) − f(y − ε v)) / 2ε, of large maps of which autograd knows Jᵀ w alone."""

    certain = False

    def pushed(self, v: Tensor) -> Tensor:
        """J v."""
        along, scale = difference(self.y, v)
        with torch.no_grad(), exact_attention():
            return scaled(self.function(self.y + along) - self.function(self.y - along), scale)


def differentiated(function: Map, y: Tensor) -> Jacobian | Recomputed:
    """J with parameters as constants (`linearised`), so that a kept graph is little more than slopes of activations."""
    return sound(linearised(function), y)


def sound(function: Map, y: Tensor) -> Jacobian | Recomputed:
    """J by the first way that gives J v and Jᵀ w of one and the same J.

    By one graph that is kept (`Jacobian`); where the map cannot be differentiated twice, or is in part the black box of
    a custom Function, which autograd passes by in silence the second time, by forward mode (`Tangents`); without that
    by the whole matrix of up to `DENSE` numbers (`Rows`), else by `Quotients`.
    """
    jacobian = _by_graph(function, y)
    if jacobian is not None:
        return jacobian
    tangents = Tangents(function, y)
    try:
        if agrees(tangents):
            return tangents
    except RuntimeError:  # NotImplementedError is one: some operation has no forward mode
        pass
    few = max(y[0].numel(), tangents.value[0].numel()) <= DENSE
    return Rows(function, y) if few else Quotients(function, y)


def _by_graph(function: Map, y: Tensor) -> Jacobian | None:
    """None where the graph cannot be differentiated again, or not as a whole."""
    try:
        jacobian = Jacobian(function, y)
        if is_opaque(jacobian.value):
            return jacobian if agrees(jacobian) else None
        # Torch raises where it knows no second derivative of an operation of its own.
        jacobian.pushed(torch.zeros_like(jacobian.y))
    except RuntimeError as reason:
        if not concerns_derivatives(reason):
            raise
        return None
    return jacobian


def agrees(derivative: Derivative) -> bool:
    """Whether J v and Jᵀ w are of one J: ⟨J v, w⟩ = ⟨v, Jᵀ w⟩ at every sample, for a v and some w that are drawn."""
    v = direction(derivative.y, 0)
    pushed = derivative.pushed(v)
    # What is missing of J v may be nearly orthogonal to one w, hardly to all of them.
    return all(_agree_along(derivative, v, pushed, seed) for seed in range(1, 1 + DRAWN))


def _agree_along(derivative: Derivative, v: Tensor, pushed: Tensor, seed: int) -> bool:
    # Along J v no digit is lost by cancellation; a J v that was lost itself shows along another direction.
    w = _unit(pushed) + 0.5 * direction(pushed, seed)
    forward, reverse = _products(pushed, w), _products(v, derivative.pulled(w))
    return not bool(
        ((forward - reverse).abs() > AGREE * torch.maximum(forward.abs(), reverse.abs())).any()
    )


def concerns_derivatives(reason: RuntimeError) -> bool:
    """Whether torch says of an operation that it cannot be differentiated so."""
    return "differentiat" in str(reason) or "derivative" in str(reason)


def difference(y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """ε v and 1 / 2ε of each sample, |ε v| = ∛eps |y|: rounding and curvature weigh about the same."""
    sizes, lengths = (each.flatten(1).norm(dim=1) for each in (y, v))
    share = torch.finfo(v.dtype).eps ** (1 / 3) * torch.where(sizes > 0, sizes, 1)
    lengths = lengths.clamp(min=torch.finfo(v.dtype).tiny)
    return scaled(v, share / lengths), lengths / (2 * share)


def scaled(x: Tensor, factors: Tensor) -> Tensor:
    """Each sample by its own factor."""
    return x * factors.reshape(-1, *(1,) * (x.ndim - 1))


def _unit(x: Tensor) -> Tensor:
    """Each sample of size 1; 0 stays."""
    return scaled(x, 1 / x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny))


def _products(x: Tensor, y: Tensor) -> Tensor:
    return (x.detach() * y.detach()).flatten(1).sum(dim=1)


def is_opaque(value: Tensor) -> bool:
    """Whether a node of the graph is none of torch's own: what it does backwards autograd may not see."""
    return any(
        (isinstance(node, BackwardCFunction) and getattr(node, "_forward_cls", None) is not Applied)
        or type(node).__name__ == "CppFunction"  # of an extension, or of a script
        for node in nodes_of(value)
    )


def nodes_of(value: Tensor) -> set[Node]:
    """The graph behind a value."""
    pending = [] if value.grad_fn is None else [value.grad_fn]
    seen = set(pending)
    while pending:
        for after, _ in pending.pop().next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                pending.append(after)
    return seen


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
