"""Activations: the bounded or rectified functions that bend a layer, with what stability needs of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Function = Callable[[Tensor], Tensor]


def _log_cosh(x: Tensor) -> Tensor:
    return functional.softplus(2 * x) - x - math.log(2.0)


def _identity(x: Tensor) -> Tensor:
    return x


# Primitives have names: a lambda could not be pickled, nor a network that holds it.
def _half_rectified_square(x: Tensor) -> Tensor:
    return 0.5 * torch.relu(x).square()


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x.square()


def _versine(x: Tensor) -> Tensor:
    return 1 - torch.cos(x)


@dataclass(frozen=True)
class Activation:
    """A scalar function f applied entry by entry.

    ``primitive`` is F with F' = f (the energy of a Hamiltonian field needs it; None where none is
    known) and ``slope`` is max |f'|, which scales every step bound.
    """

    name: str
    function: Function
    primitive: Function | None = None
    slope: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        """The function where it is a module, which has a mode: whoever applies it registers it."""
        return {"activation": self.function} if isinstance(self.function, nn.Module) else {}


ActivationChoice = str | Function | Activation

KNOWN = {
    activation.name: activation
    for activation in (
        Activation("tanh", torch.tanh, _log_cosh),
        Activation("relu", torch.relu, _half_rectified_square),
        Activation("identity", _identity, _half_square),
        Activation("sin", torch.sin, _versine),
        Activation("sigmoid", torch.sigmoid, functional.softplus, slope=0.25),
        Activation("softplus", functional.softplus),
        Activation("elu", functional.elu),
        Activation("leaky_relu", functional.leaky_relu),
        Activation("gelu", functional.gelu, slope=1.129),
        Activation("silu", functional.silu, slope=1.0999),
    )
}


def activation_from(choice: ActivationChoice) -> Activation:
    """The activation that a name or a callable stands for.

    A callable is taken to have slope at most 1. Raises ValueError for an unknown name, for what is
    not callable, and for a module that owns parameters (they would be invisible to the gradient).
    """
    if isinstance(choice, Activation):
        return choice
    if isinstance(choice, str):
        if choice not in KNOWN:
            raise ValueError(
                f"unknown activation {choice!r}; known are {', '.join(KNOWN)}, or pass a callable"
            )
        return KNOWN[choice]
    if isinstance(choice, nn.Module) and any(True for _ in choice.parameters()):
        raise ValueError(
            f"activation {type(choice).__name__} owns parameters, but parameters live in controls;"
            " put the whole branch into a ModuleField"
        )
    if isinstance(choice, type) or not callable(choice):
        raise ValueError(f"activation must be a name or a function of a tensor, got {choice!r}")
    return Activation(getattr(choice, "__name__", type(choice).__name__), choice)
