"""The formulas of the passes as operations of torch on any device, without a graph, for a compiler to fuse.

Each writes into the arrays that it is given: values returned would have to be copied to their places.
What a formula reads of an array it reads before it writes there, so that arrays may coincide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from keelnet.dynamics.activations import Function
from keelnet.dynamics.norms import ChannelNorm, InstanceNorm
from keelnet.propagation.engines.slopes import Slope


@dataclass(frozen=True)
class PassFormulas:
    """Those of `passes.Passes`; ``factor`` is a tensor without axes."""

    function: Function
    slope: Slope  # of f(a) if ``keeps_value``, else of a
    keeps_value: bool
    norm: ChannelNorm | InstanceNorm | None

    def bend(
        self,
        pre: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        target: Tensor | None,
        dest: Tensor | None,
        kept: Tensor | None,
        factor: Tensor,
        samples: int,
    ) -> None:
        a = self._argument(pre, bias, scale, samples)
        value = self.function(a)
        if kept is not None:
            kept.copy_(value if self.keeps_value else a)
        if dest is not None:
            moved = value * factor
            dest.copy_(moved if target is None else target + moved)

    def pull(
        self, kept: Tensor, costate: Tensor, dest: Tensor, sums: Tensor | None, factor: Tensor
    ) -> None:
        pulled = self.slope(kept) * costate * factor
        _add_rows(sums, pulled)
        dest.copy_(pulled)

    def unbend(
        self,
        pre: Tensor,
        bias: Tensor | None,
        target: Tensor,
        costate: Tensor,
        dest: Tensor,
        sums: Tensor | None,
        factor: Tensor,
    ) -> None:
        a = self._argument(pre, bias, None, 1)
        value = self.function(a)
        pulled = self.slope(value if self.keeps_value else a) * costate * factor
        _add_rows(sums, pulled)
        target.copy_(target - value * factor)
        dest.copy_(pulled)

    def unnorm(
        self,
        pre: Tensor,
        costate: Tensor,
        scale: Tensor | None,
        dest: Tensor,
        sums: Tensor | None,
        samples: int,
    ) -> None:
        """n = x s, s = (mean x² + eps)^(−½); backwards s (g − n mean(g n)), less s mean g if x was centred."""
        n, s = self._normed(pre, samples)
        g = (costate if scale is None else costate * scale).view(n.shape)
        pulled = g - n * self._mean(g * n)
        if isinstance(self.norm, InstanceNorm):
            pulled = pulled - self._mean(g)
        _add_rows(sums, costate * n.view(costate.shape))
        dest.copy_((pulled * s).view(dest.shape))

    def _argument(
        self, pre: Tensor, bias: Tensor | None, scale: Tensor | None, samples: int
    ) -> Tensor:
        a = pre if self.norm is None else self._normed(pre, samples)[0].view(pre.shape)
        a = a if scale is None else a * scale
        return a if bias is None else a + bias

    def _normed(self, pre: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """n as (samples, rows, channels), and s."""
        assert self.norm is not None
        x = pre.view(samples, -1, pre.shape[-1])
        if isinstance(self.norm, InstanceNorm):
            x = x - self._mean(x)
        s = torch.rsqrt(self._mean(x.square()) + self.norm.eps)
        return x * s, s

    def _mean(self, x: Tensor) -> Tensor:
        """Over what the norm takes together: a sample's rows, or a row's channels."""
        return x.mean(1 if isinstance(self.norm, InstanceNorm) else 2, keepdim=True)


def _add_rows(sums: Tensor | None, rows: Tensor) -> None:
    if sums is not None:
        sums.add_(rows.sum(0) if sums.shape == rows.shape[1:] else rows.sum())
