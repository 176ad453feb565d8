"""Passes by compiled kernels on torch's threads: arguments checked, memory made, the block filled."""

from __future__ import annotations

import math
import struct
from array import array

import torch
from torch import Tensor

from keelnet.dynamics.norms import ChannelNorm, InstanceNorm, Norm
from keelnet.propagation.engines.lanes import BYTES
from keelnet.propagation.engines.row_bodies import UNBENT
from keelnet.propagation.engines.row_kernels import kernel_of
from keelnet.propagation.engines.row_sweep import MOMENTS, scratch_bytes
from keelnet.propagation.engines.threads import launch

WORTH = 1 << 14  # numbers that are worth a thread of their own
STRETCH = 256  # numbers that a kernel takes at a time, at least
_REAL, _BITS = struct.Struct("d"), struct.Struct("q")
_NORMS: dict[type, str] = {ChannelNorm: "_channel", InstanceNorm: "_instance"}


class CompiledPasses:
    """The same as `passes.Passes`, of one bend; 0 stands for no array."""

    def __init__(self, bend: str, norm: Norm | None, dtype: torch.dtype) -> None:
        self._bend, self._dtype = bend, dtype
        self._size = dtype.itemsize
        self._lanes = BYTES // self._size
        self._suffix = _NORMS.get(type(norm), "")
        self._eps = _BITS.unpack(_REAL.pack(getattr(norm, "eps", 0.0)))[0]
        self._addresses: dict[str, int] = {}
        self._layouts: dict[int, tuple[int, int]] = {}

    def bend(
        self,
        pre: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        target: Tensor | None,
        dest: Tensor | None,
        kept: Tensor | None,
        factor: float,
        samples: int,
    ) -> None:
        if kept is None and dest is None:
            return
        moments = self._moments(pre, None, samples)
        self._run(
            f"bend{self._suffix}",
            pre,
            bias=bias,
            scale=scale,
            target=target,
            dest=dest,
            kept=kept,
            factor=factor,
            samples=samples,
            moments=moments,
        )

    def pull(
        self, kept: Tensor, costate: Tensor, dest: Tensor, sums: Tensor | None, factor: float
    ) -> None:
        self._run("pull", kept, costate=costate, dest=dest, kept=kept, sums=sums, factor=factor)

    def unbend(
        self,
        pre: Tensor,
        bias: Tensor | None,
        target: Tensor,
        costate: Tensor,
        dest: Tensor,
        sums: Tensor | None,
        factor: float,
    ) -> None:
        self._run(
            "unbend",
            pre,
            bias=bias,
            target=target,
            costate=costate,
            dest=dest,
            sums=sums,
            factor=factor,
        )

    def unnorm(
        self,
        pre: Tensor,
        costate: Tensor,
        scale: Tensor | None,
        dest: Tensor,
        sums: Tensor | None,
        samples: int,
    ) -> None:
        moments = self._moments(pre, costate, samples)
        self._run(
            f"unnorm{self._suffix}",
            pre,
            costate=costate,
            scale=scale,
            dest=dest,
            sums=sums,
            samples=samples,
            moments=moments,
        )

    def shift(self, target: Tensor, source: Tensor, factor: float) -> None:
        self._run("shift", source, target=target, factor=factor)

    def _moments(
        self, pre: Tensor, costate: Tensor | None, samples: int
    ) -> tuple[Tensor, Tensor] | None:
        """Sums of each sample, by thread, and what was taken off before; of an `InstanceNorm` only."""
        if self._suffix != "_instance":
            return None
        channels = pre.shape[-1]
        shape = (self._threads(pre.numel()), samples, MOMENTS, channels)
        found = (
            torch.zeros(shape, dtype=torch.float64, device="cpu"),
            torch.zeros(samples, channels, dtype=torch.float64, device="cpu"),
        )
        self._run("moments", pre, costate=costate, samples=samples, moments=found)
        return found

    def _threads(self, count: int) -> int:
        return max(1, min(torch.get_num_threads(), count // WORTH))

    def _layout(self, channels: int) -> tuple[int, int]:
        """Rows in a stretch, so that it is whole vectors where that costs little; numbers in a pattern."""
        if channels not in self._layouts:
            rows = self._lanes // math.gcd(channels, self._lanes)
            if rows * channels > 16 * STRETCH:
                rows = 1
            rows *= max(1, STRETCH // (rows * channels))
            width = -(-rows * channels // self._lanes) * self._lanes
            self._layouts[channels] = (rows, width)
        return self._layouts[channels]

    def _array(self, tensor: Tensor | None, count: int) -> int:
        if tensor is None:
            return 0
        if tensor.dtype is not self._dtype or tensor.numel() != count:
            raise ValueError(
                f"expected {count} numbers of {self._dtype}, got {tensor.numel()} of {tensor.dtype}"
            )
        if not tensor.is_contiguous():
            raise ValueError(f"expected contiguous rows, got strides {tensor.stride()}")
        return tensor.data_ptr()

    def _run(
        self,
        work: str,
        pre: Tensor,
        *,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        target: Tensor | None = None,
        costate: Tensor | None = None,
        dest: Tensor | None = None,
        kept: Tensor | None = None,
        sums: Tensor | None = None,
        factor: float = 1.0,
        samples: int = 1,
        moments: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        count, channels = pre.numel(), pre.shape[-1]
        if count == 0:
            return
        rows = count // channels // samples
        if rows * samples * channels != count:
            raise ValueError(f"{count // channels} rows are not {samples} equal blocks")
        stretch, width = self._layout(channels)
        threads = self._threads(count)
        # As it comes: kernels write what they read of it, and mask what lies past the last number.
        scratch = torch.empty(
            threads * scratch_bytes(width, self._size) + 64, dtype=torch.uint8, device="cpu"
        )
        if bias is not None and not bias.is_contiguous():
            bias = bias.contiguous()
        if scale is not None and not scale.is_contiguous():
            scale = scale.contiguous()
        array_, per_bias = self._array, 0 if bias is None else bias.ndim
        per_sum = 0 if sums is None else sums.ndim
        block = array(
            "q",
            (
                0,
                0,
                0,
                threads,
                samples,
                rows,
                channels,
                stretch,
                scratch.data_ptr(),
                width,
                _BITS.unpack(_REAL.pack(factor))[0],
                self._eps,
                array_(pre, count),
                array_(bias, channels if per_bias else 1),
                1 if per_bias else 0,
                array_(scale, channels),
                array_(target, count),
                array_(costate, count),
                array_(dest, count),
                array_(kept, count),
                array_(sums, channels if per_sum else 1),
                1 if per_sum else 0,
                0 if moments is None else moments[0].data_ptr(),
                0 if moments is None else moments[1].data_ptr(),
            ),
        )
        address = block.buffer_info()[0]
        block[0] = address
        kernel = self._addresses.get(work)
        if kernel is None:
            bend = "identity" if work in UNBENT else self._bend
            compiled = kernel_of(work, bend, self._size == 8)
            kernel = self._addresses[work] = compiled.address
        launch(kernel, address, threads)
        # Where OpenMP gave fewer threads than asked for, the shares that are left.
        for _ in range(threads - block[1]):
            launch(kernel, address, 1)
