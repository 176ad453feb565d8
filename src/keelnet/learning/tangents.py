"""Tangents: ways to compute J v and Jᵀ w, J = how the logits move with the parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from keelnet.dynamics.kernels import require_count
from keelnet.learning.solvers import Linear
from keelnet.learning.unknowns import Unknowns
from keelnet.networks.network import propagating
from keelnet.propagation import engine, store_all


class Linearised(NamedTuple):
    """v ↦ J v, (parameters,) → the shape of the logits; and w ↦ Jᵀ w back, None for back-propagation's."""

    push: Linear
    pull: Linear | None = None


class Tangent(ABC):
    """A way to compute J v, J = d logits / dθ at the parameters that the network holds."""

    @abstractmethod
    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Linearised:
        """J for this x."""


@dataclass(frozen=True)
class Forward(Tangent):
    """Forward mode through store_all: exact, keeps nothing, works on any device and precision."""

    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Linearised:
        here = unknowns.named(unknowns.vector())

        def logits(theta: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(network, theta, (x,))

        def pushed(v: Tensor) -> Tensor:
            with _stored(network), sdpa_kernel(SDPBackend.MATH):
                moved: Tensor = torch.func.jvp(logits, (here,), (unknowns.named(v),))[1]
            return moved

        return Linearised(pushed)


@dataclass(frozen=True)
class Transposed(Tangent):
    """The derivative of the linear map w ↦ Jᵀ w: exact, evaluates the network once for all v.

    The stored graph costs several times the memory of store_all.
    """

    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Linearised:
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

        return Linearised(pushed)


@dataclass(frozen=True)
class Differences(Tangent):
    """Central differences (F(θ + ε v) − F(θ − ε v)) / 2ε: two forward passes, by the fused engines.

    ε ‖v‖ = eps^⅓ (1 + ‖θ‖ / √n): the relative error is about eps^⅔, 4e-11 in float64 and 2e-5 in
    float32. For narrow states the fastest by far: there forward mode waits for Python, not for arithmetic.
    """

    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Linearised:
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

        return Linearised(pushed)


@dataclass(frozen=True)
class Stored(Tangent):
    """J as a matrix, a row for each logit, by reverse mode for every sample at once: exact.

    After that a product costs logits × parameters. For few samples and parameters: up to ``entries`` numbers, beyond
    which it raises ValueError. The network must treat the samples of a batch apart.
    """

    entries: int = 2**27

    def __post_init__(self) -> None:
        require_count("entries", self.entries)

    def at(self, network: nn.Module, unknowns: Unknowns, x: Tensor) -> Linearised:
        matrix, shape = self._matrix(network, unknowns, x)
        return Linearised(lambda v: (matrix @ v).reshape(shape), lambda w: w.reshape(-1) @ matrix)

    def _matrix(
        self, network: nn.Module, unknowns: Unknowns, x: Tensor
    ) -> tuple[Tensor, tuple[int, ...]]:
        with torch.no_grad():
            shape = tuple(network(x[:1]).shape)
        parameters = sum(value.numel() for value in unknowns.parameters)
        rows = len(x) * math.prod(shape[1:])
        if rows * parameters > self.entries:
            raise ValueError(
                f"J has {rows} rows and {parameters} columns, more than {self.entries} numbers;"
                " use tangent=Forward(), or a smaller share of the samples"
            )

        def logits(theta: dict[str, Tensor], sample: Tensor) -> Tensor:
            return torch.func.functional_call(network, theta, (sample[None],))[0]

        by_sample = torch.func.vmap(torch.func.jacrev(logits), (None, 0))
        with _stored(network), sdpa_kernel(SDPBackend.MATH):
            parts = by_sample(unknowns.named(unknowns.vector()), x)
        columns = [parts[name].reshape(rows, -1) for name in unknowns.names]
        return torch.cat(columns, dim=1), (len(x), *shape[1:])


def _stored(network: nn.Module) -> AbstractContextManager[None]:
    """Within it every Block propagates by store_all, unchecked: torch.func can transform that alone."""
    return propagating(network, strategy=store_all, checked=False)
