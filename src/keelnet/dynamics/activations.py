"""Activations: the bounded or rectified functions that bend a layer, with what stability needs of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

Function = Callable[[Tensor], Tensor]


def _log_cosh(x: Tensor) -> Tensor:
    """To all digits near 0, too, where log 2 would cancel them; farther out sinh² overflows."""
    size = x.abs()
    far = size + torch.log1p(torch.exp(-2 * size)) - math.log(2.0)
    near = torch.log1p(2 * torch.sinh(x.clamp(-1, 1) / 2).square())
    return torch.where(size < 1, near, far)


def _identity(x: Tensor) -> Tensor:
    return x


# Primitives have names: a lambda could not be pickled, nor a network that holds it.
def _half_rectified_square(x: Tensor) -> Tensor:
    return 0.5 * torch.relu(x).square()


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x.square()


def _versine(x: Tensor) -> Tensor:
    """1 − cos x, to all digits near 0."""
    return 2 * torch.sin(x / 2).square()


@dataclass(frozen=True)
class Activation:
    """A scalar function f applied entry by entry.

    ``primitive`` is F with F' = f (the energy of a Hamiltonian field needs it; None where none is
    known), ``slope`` is max |f'|, which scales every step bound, and ``rising`` says that f' ≥ 0
    everywhere: only then do the bounds hold for every state.
    """

    name: str
    function: Function
    primitive: Function | None = None
    slope: float = 1.0
    rising: bool = False

    @property
    def is_known(self) -> bool:
        """Whether it is one of `KNOWN`: no subclass of its own, and no function that only bears the name."""
        known = KNOWN.get(self.name)
        return type(self) is Activation and known is not None and known.function is self.function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def __setstate__(self, state: dict[str, object]) -> None:
        """Of an activation that was pickled by a version that did not know ``rising``, it is what it is of the function."""
        known = (each for each in KNOWN.values() if each.function is state["function"])
        vars(self).update({"rising": next((each.rising for each in known), False)} | state)

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        """The function where it is a module, which has a mode: whoever applies it registers it."""
        return {"activation": self.function} if isinstance(self.function, nn.Module) else {}

    def holding(self, function: Function) -> Activation:
        """With another module in the place of its own: one with a slope and an energy of its own."""
        return activation_from(function) if type(self) is Activation else replace(self, function=function)  # fmt: skip


ActivationChoice = str | Function | Activation

KNOWN = {
    activation.name: activation
    for activation in (
        Activation("tanh", torch.tanh, _log_cosh, rising=True),
        Activation("relu", torch.relu, _half_rectified_square, rising=True),
        Activation("identity", _identity, _half_square, rising=True),
        Activation("sin", torch.sin, _versine),
        Activation("sigmoid", torch.sigmoid, functional.softplus, slope=0.25, rising=True),
        Activation("softplus", functional.softplus, rising=True),
        Activation("elu", functional.elu, rising=True),
        Activation("leaky_relu", functional.leaky_relu, rising=True),
        Activation("gelu", functional.gelu, slope=1.129),
        Activation("silu", functional.silu, slope=1.0999),
    )
}
# The same functions by other names, and as modules with these settings.
_OTHERWISE = {
    "tanh": functional.tanh,
    "sigmoid": functional.sigmoid,
    "relu": functional.relu,
}
_MODULES: dict[type[nn.Module], tuple[str, dict[str, object]]] = {
    nn.Tanh: ("tanh", {}),
    nn.ReLU: ("relu", {}),
    nn.Identity: ("identity", {}),
    nn.Sigmoid: ("sigmoid", {}),
    nn.Softplus: ("softplus", {"beta": 1.0, "threshold": 20.0}),
    nn.ELU: ("elu", {"alpha": 1.0}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.SiLU: ("silu", {}),
}


def activation_from(choice: ActivationChoice) -> Activation:
    """The activation that a name or a callable stands for.

    A function that has a name here is that activation, and torch's module of it has its slope and energy. Any other
    callable is taken to have slope at most 1. Raises ValueError for an unknown name, for what is
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
    if isinstance(choice, nn.Module):
        return _of_module(choice)
    for known in KNOWN.values():
        if choice is known.function or choice is _OTHERWISE.get(known.name):
            return known
    return Activation(getattr(choice, "__name__", type(choice).__name__), choice)


def _of_module(module: nn.Module) -> Activation:
    """The module itself, which has a mode and hooks, with what is known of its function."""
    name, settings = _MODULES.get(type(module), ("", {}))
    if name and all(getattr(module, key) == value for key, value in settings.items()):
        return replace(KNOWN[name], function=module)
    return Activation(type(module).__name__, module)
