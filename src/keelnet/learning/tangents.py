"""Tangents: ways to compute J v, how the logits move with the parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from keelnet.learning.unknowns import Unknowns
from keelnet.networks.network import blocks_of
from keelnet.propagation import engine, store_all

Push = Callable[[Tensor], Tensor]


class Tangent(ABC):
    """A way to compute J v, J = d logits / dθ at the parameters that the network holds."""

    @abstractmethod
    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Push:
        """v ↦ J v for this x; (parameters,) → the shape of the logits."""


@dataclass(frozen=True)
class Forward(Tangent):
    """Forward mode through store_all: exact, keeps nothing, works on any device and precision."""

    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Push:
        here = unknowns.named(unknowns.vector())

        def logits(theta: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(network, theta, (x,))

        def pushed(v: Tensor) -> Tensor:
            with _stored(network), sdpa_kernel(SDPBackend.MATH):
                moved: Tensor = torch.func.jvp(logits, (here,), (unknowns.named(v),))[1]
            return moved

        return pushed


@dataclass(frozen=True)
class Transposed(Tangent):
    """The derivative of the linear map w ↦ Jᵀ w: exact, evaluates the network once for all v.

    The stored graph costs several times the memory of store_all.
    """

    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Push:
        with torch.enable_grad(), _stored(network), engine("reference"):
            with sdpa_kernel(SDPBackend.MATH):
                value = network(x)
            costate = torch.zeros_like(value, requires_grad=True)
            pulled = torch.autograd.grad(
                value, unknowns.parameters, costate, create_graph=True, allow_unused=True
            )
        used = [number for number, each in enumerate(pulled) if each is not None]

        def pushed(v: Tensor) -> Tensor:
            moves = [*unknowns.named(v).values()]
            return torch.autograd.grad(
                [pulled[number] for number in used],
                costate,
                [moves[number] for number in used],
                retain_graph=True,
            )[0]

        return pushed


@dataclass(frozen=True)
class Differences(Tangent):
    """Central differences (F(θ + ε v) − F(θ − ε v)) / 2ε: two forward passes, by the fused engines.

    ε ‖v‖ = eps^⅓ (1 + ‖θ‖ / √n): the relative error is about eps^⅔, 4e-11 in float64 and 2e-5 in
    float32. For narrow states the fastest by far: there forward mode waits for Python, not for arithmetic.
    """

    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Push:
        theta = unknowns.vector()
        size = torch.finfo(theta.dtype).eps ** (1 / 3)
        size *= 1 + float(theta.norm()) / theta.numel() ** 0.5

        def logits(moved: Tensor) -> Tensor:
            return torch.func.functional_call(network, unknowns.named(moved), (x,))

        def pushed(v: Tensor) -> Tensor:
            length = float(v.norm())
            if length == 0:
                length = 1.0
            step = size / length
            with torch.no_grad():
                return (logits(theta + step * v) - logits(theta - step * v)) / (2 * step)

        return pushed


@contextmanager
def _stored(network: nn.Module) -> Iterator[None]:
    """Within the block every Block propagates by store_all, which alone has forward derivatives."""
    blocks = blocks_of(network)
    before = [block.strategy for block in blocks]
    try:
        for block in blocks:
            block.strategy = store_all
        yield
    finally:
        for block, strategy in zip(blocks, before, strict=True):
            block.strategy = strategy
