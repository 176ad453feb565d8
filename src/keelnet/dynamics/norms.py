"""Norms without memory: safe inside a field, since they hold no statistics that a second pass would change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Norm(ABC):
    """Rescales a state by its own size; the learned scale and bias belong to the field's controls."""

    @abstractmethod
    def apply(self, x: Tensor, channel_axis: int) -> Tensor:
        """The normalised state, same shape."""


@dataclass(frozen=True)
class ChannelNorm(Norm):
    """x / sqrt(mean over channels of x² + eps) at each point (Ruthotto & Haber 2020, sec. 4)."""

    eps: float = 1e-3

    def apply(self, x: Tensor, channel_axis: int) -> Tensor:
        wide = _wide(x)
        mean = wide.square().mean(dim=channel_axis, keepdim=True)
        return (wide * torch.rsqrt(mean + self.eps)).to(x.dtype)


@dataclass(frozen=True)
class InstanceNorm(Norm):
    """(x − mean) / sqrt(var + eps) over space, for each sample and channel."""

    eps: float = 1e-5

    def apply(self, x: Tensor, channel_axis: int) -> Tensor:
        space = tuple(axis for axis in range(1, x.ndim) if axis != channel_axis % x.ndim)
        if not space:
            raise ValueError(
                f"InstanceNorm needs space axes, got a state {tuple(x.shape)}; use ChannelNorm"
            )
        wide = _wide(x)
        var, mean = torch.var_mean(wide, dim=space, keepdim=True, correction=0)
        return ((wide - mean) * torch.rsqrt(var + self.eps)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """In float16 the square of 256 is inf already."""
    return x.float() if x.dtype == torch.float16 else x
