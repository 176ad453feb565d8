"""Slopes: f' of the activations that keelnet knows, from the one array that a pass keeps of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Slope = Callable[[Tensor], Tensor]

# f' from f(x), where it follows from that.
BY_VALUE: dict[str, Slope] = {
    "tanh": lambda r: 1 - r * r,
    "relu": lambda r: (r > 0).to(r.dtype),
    "identity": torch.ones_like,
    "leaky_relu": lambda r: torch.full_like(r, 0.01).masked_fill_(r > 0, 1.0),
    "sigmoid": lambda r: r * (1 - r),
    "elu": lambda r: torch.where(r > 0, torch.ones_like(r), r + 1),
}


def _softplus(x: Tensor) -> Tensor:
    """Above 20 torch's softplus is x itself."""
    return torch.where(x > 20, torch.ones_like(x), torch.sigmoid(x))


def _gelu(x: Tensor) -> Tensor:
    """Φ(x) + x φ(x), of the normal distribution."""
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


def _silu(x: Tensor) -> Tensor:
    share = torch.sigmoid(x)
    return share * (1 + x * (1 - share))


# f' from x.
BY_ARGUMENT: dict[str, Slope] = {
    "sin": torch.cos,
    "softplus": _softplus,
    "gelu": _gelu,
    "silu": _silu,
}
