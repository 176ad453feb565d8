"""Passes: what engines do to whole arrays entry by entry, each number read and written once.

Arrays are (rows, channels), contiguous; `as_rows` sees a state so. On the processor the activations that
`bends` knows run compiled, on torch's threads; every other one, and all of them where Numba is
missing, by operations of torch. Sums depend on the number of threads, and on nothing else. On other
devices torch.compile compiles them (`device_passes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from keelnet.dynamics.activations import Activation
from keelnet.dynamics.norms import ChannelNorm, InstanceNorm, Norm
from keelnet.propagation.engines.compiler import has_numba
from keelnet.propagation.engines.slopes import BY_VALUE

if TYPE_CHECKING:
    from keelnet.propagation.engines.compiled_passes import CompiledPasses
    from keelnet.propagation.engines.device_passes import DevicePasses

_TYPES = (torch.float32, torch.float64)
_PROCESSOR = torch.device("cpu")


def as_rows(state: Tensor, channel_axis: int) -> Tensor:
    """The state as (rows, channels), without a copy; ValueError where its memory lies otherwise."""
    last = state.movedim(channel_axis, -1)
    if not last.is_contiguous():
        raise ValueError(f"channels do not come last in memory: strides {tuple(state.stride())}")
    return last.view(-1, last.shape[-1])


class Passes:
    """The passes of one activation f and one norm.

    a = norm(pre) · scale + bias is what f bends; scale and bias are None, (channels,) or, the bias,
    one number. With an `InstanceNorm` the rows are ``samples`` equal blocks.
    """

    native: bool  # whether passes run compiled
    keeps_value: bool  # whether ``kept`` is f(a); else it is a

    def __init__(
        self,
        activation: Activation,
        norm: Norm | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device = _PROCESSOR,
    ) -> None:
        self._activation, self._norm, self._dtype = activation, norm, dtype
        self.keeps_value = activation.is_known and activation.name in BY_VALUE
        made = _compiled if device.type == "cpu" else _of_device
        self._compiled = made(activation, norm, dtype)
        self.native = self._compiled is not None

    def bend(
        self,
        pre: Tensor,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        target: Tensor | None = None,
        dest: Tensor | None = None,
        kept: Tensor | None = None,
        factor: float = 1.0,
        samples: int = 1,
    ) -> None:
        """kept ← f(a), or a unless ``keeps_value``; dest ← target + factor f(a).

        A target of None is 0; dest may be target, and kept may be pre.
        """
        if self._compiled is not None:
            self._compiled.bend(pre, bias, scale, target, dest, kept, factor, samples)
            return
        a = self._argument(pre, bias, scale, samples)
        value = self._activation(a)
        if kept is not None:
            kept.copy_(value if self.keeps_value else a)
        if dest is None:
            return
        if target is None:
            torch.mul(value, factor, out=dest)
        else:
            torch.add(target, value, alpha=factor, out=dest)

    def pull(
        self,
        kept: Tensor,
        costate: Tensor,
        dest: Tensor,
        bias_sums: Tensor | None = None,
        factor: float = 1.0,
    ) -> None:
        """dest ← factor f' costate, by what `bend` kept; bias_sums += Σ over rows of dest."""
        if self._compiled is not None:
            self._compiled.pull(kept, costate, dest, bias_sums, factor)
            return
        torch.mul(self._slope(kept) * costate, factor, out=dest)
        _add_rows(bias_sums, dest)

    def unbend(
        self,
        pre: Tensor,
        bias: Tensor | None,
        target: Tensor,
        costate: Tensor,
        dest: Tensor,
        bias_sums: Tensor | None = None,
        factor: float = 1.0,
    ) -> None:
        """Without a norm: target ← target − factor f(a); dest ← factor f'(a) costate, summed as by `pull`.

        dest may be pre.
        """
        if self._norm is not None:
            raise ValueError("with a norm, call bend, pull and unnorm")
        if self._compiled is not None:
            self._compiled.unbend(pre, bias, target, costate, dest, bias_sums, factor)
            return
        a = self._argument(pre, bias, None, 1)
        value = self._activation(a)
        target.sub_(value, alpha=factor)
        self.pull(value if self.keeps_value else a, costate, dest, bias_sums, factor)

    def unnorm(
        self,
        pre: Tensor,
        costate: Tensor,
        scale: Tensor | None,
        dest: Tensor,
        scale_sums: Tensor | None = None,
        samples: int = 1,
    ) -> None:
        """The costate of norm(pre) · scale + bias made that of pre; scale_sums += Σ over rows of costate · norm(pre).

        dest may be pre or costate.
        """
        if self._norm is None:
            raise ValueError("there is no norm")
        if self._compiled is not None:
            self._compiled.unnorm(pre, costate, scale, dest, scale_sums, samples)
            return
        with torch.enable_grad():
            x = pre.detach().requires_grad_()
            normed = self._normed(x, samples)
        onto = costate if scale is None else costate * scale.detach()
        pulled = torch.autograd.grad(normed, x, onto)[0]
        _add_rows(scale_sums, costate * normed.detach())
        dest.copy_(pulled)

    def shift(self, target: Tensor, source: Tensor, factor: float = 1.0) -> None:
        """target ← target + factor source."""
        if self._compiled is not None:
            self._compiled.shift(target, source, factor)
            return
        target.add_(source, alpha=factor)

    def _normed(self, pre: Tensor, samples: int) -> Tensor:
        if self._norm is None:
            return pre
        blocks = pre.view(samples, -1, pre.shape[-1])
        return self._norm.apply(blocks, -1).view(pre.shape)

    def _argument(
        self, pre: Tensor, bias: Tensor | None, scale: Tensor | None, samples: int
    ) -> Tensor:
        a = self._normed(pre.detach(), samples)
        a = a if scale is None else a * scale.detach()
        return a.clone() if bias is None else a + bias.detach()

    def _slope(self, kept: Tensor) -> Tensor:
        if self.keeps_value:
            return BY_VALUE[self._activation.name](kept)
        with torch.enable_grad():
            a = kept.detach().requires_grad_()
            return torch.autograd.grad(self._activation(a).sum(), a)[0]


def _add_rows(sums: Tensor | None, rows: Tensor) -> None:
    if sums is not None:
        sums.add_(rows.sum(0) if sums.ndim else rows.sum())


def _of_device(
    activation: Activation, norm: Norm | None, dtype: torch.dtype
) -> DevicePasses | None:
    if not activation.is_known or dtype not in _TYPES:
        return None
    if not (norm is None or type(norm) is ChannelNorm or type(norm) is InstanceNorm):
        return None
    from keelnet.propagation.engines.device_passes import DevicePasses

    return DevicePasses(activation.name, norm)


def _compiled(
    activation: Activation, norm: Norm | None, dtype: torch.dtype
) -> CompiledPasses | None:
    if not has_numba() or dtype not in _TYPES:
        return None
    if type(norm) not in (ChannelNorm, InstanceNorm, type(None)):
        return None
    from keelnet.propagation.engines.bends import bend_of
    from keelnet.propagation.engines.compiled_passes import CompiledPasses

    bend = bend_of(activation)
    return None if bend is None else CompiledPasses(bend.name, norm, dtype)
