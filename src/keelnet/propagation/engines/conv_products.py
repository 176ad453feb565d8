"""Products of convolutions without an autograd graph: L x, Lᵀ g and the gradient of the weight.

Stencils of 3 go by Winograd's filtering where that pays (`winograd_products`), all others by oneDNN. States keep their channels last in memory. torch's own rule sends small batches of one sample to a
plain loop, up to 17 times slower than oneDNN; here products call oneDNN themselves, and the gradient
of the weight sees one sample as two halves with a halo. A convolution in one dimension is one in two.
On other devices than the processor all products are torch's own.
"""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from keelnet.dynamics.forms import Form
from keelnet.dynamics.kernels import ConvKernel
from keelnet.propagation.engines import winograd_products as winograd
from keelnet.propagation.engines.effective import effective_weight

# ATen's use_mkldnn: one sample needs more numbers than this in its first axes, the last of 3-D left out.
_ATEN_LEAST = 20480
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_PUBLIC = {4: torch.conv2d, 5: torch.conv3d}


class Weight:
    """A layer's weight as products read it; each layout is made when it is first read."""

    def __init__(self, plain: Tensor) -> None:
        self._plain = plain

    @functools.cached_property
    def laid(self) -> Tensor:
        return _last(_flat(self._plain))

    @functools.cached_property
    def spread(self) -> Tensor:
        return winograd.spread_weight(self._plain)


@dataclass(frozen=True)
class Prepared:
    """What a layer's weight becomes once: the weights of L and of Lᵀ, both for a plain convolution."""

    product: Weight
    adjoint: Weight


class ConvProducts:
    """Products of forms whose kernel is a `ConvKernel`.

    ``products="bfloat16"`` rounds inputs and weights to bfloat16 and sums in float32; each result is
    rounded once more to bfloat16 and returned in the state's dtype.
    """

    def __init__(self, products: Literal["state", "bfloat16"] = "state") -> None:
        if products not in ("state", "bfloat16"):
            raise ValueError(f'products must be "state" or "bfloat16", got {products!r}')
        self._bfloat16 = products == "bfloat16"

    @torch.no_grad()
    def prepared(self, form: Form, weight: Tensor) -> Prepared:
        """Of one layer's own weight."""
        kernel = _kernel(form)
        weight = effective_weight(form, weight.detach())
        turned = _turned(kernel, weight)
        if form.adjoint:
            weight, turned = turned, weight
        return Prepared(Weight(self._cast(weight)), Weight(self._cast(turned)))

    def apply(self, form: Form, prepared: Prepared, x: Tensor) -> Tensor:
        """L x, a new tensor."""
        return self._product(_kernel(form), prepared.product, x)

    def adjoint(self, form: Form, prepared: Prepared, g: Tensor) -> Tensor:
        """Lᵀ g, a new tensor."""
        return self._product(_kernel(form), prepared.adjoint, g)

    def add_adjoint(
        self, form: Form, prepared: Prepared, g: Tensor, onto: Tensor, factor: float = 1.0
    ) -> None:
        """onto += factor Lᵀ g, in the product itself where it can."""
        self._add(_kernel(form), prepared.adjoint, g, onto, factor)

    def weight_gradient(self, form: Form, x: Tensor, g: Tensor) -> Tensor:
        """The gradient of ⟨g, L x⟩ by the effective weight."""
        sums = x.new_empty(_kernel(form).weight_shape)
        self.add_gradient(form, x, g, sums, 1.0, fresh=True)
        return sums

    @torch.no_grad()
    def add_gradient(
        self, form: Form, x: Tensor, g: Tensor, sums: Tensor, factor: float, fresh: bool
    ) -> None:
        """sums += factor · that gradient; ``fresh``: sums holds nothing yet."""
        kernel = _kernel(form)
        if form.adjoint:
            x, g = g, x  # ⟨g, Kᵀ x⟩ = ⟨K g, x⟩
        x, g = x.detach(), g.detach()
        if self._filters(kernel, x) and sums.is_contiguous():
            winograd.weight_gradient(_last(x), _last(g), sums, factor, fresh)
            return
        if kernel.groups == 1 and all(map(operator.ge, x.shape[2:], kernel.stencils)):
            # Others stay: oneDNN's bfloat16 gradient of a weight is wrong, by its own size or by what memory
            # held before, on channels-last volumes smaller than the stencil (torch 2.13; grouped ones on
            # Xeons, all on an EPYC).
            x, g = self._cast(x), self._cast(g)
        found = _weight_gradient(kernel, x, g).to(sums.dtype).reshape(kernel.weight_shape)
        if fresh:
            torch.mul(found, factor, out=sums)
        else:
            sums.add_(found, alpha=factor)

    def filters(self, form: Form, x: Tensor) -> bool:
        """Whether products of states like this one go by Winograd's filtering."""
        return self._filters(_kernel(form), x)

    def _filters(self, kernel: ConvKernel, x: Tensor) -> bool:
        return not self._bfloat16 and winograd.takes(kernel, x)

    def _cast(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor.to(torch.bfloat16) if self._bfloat16 else tensor

    @torch.no_grad()
    def _product(self, kernel: ConvKernel, weight: Weight, x: Tensor) -> Tensor:
        if self._filters(kernel, x):
            return winograd.product(_last(x.detach()), weight.spread)
        given = _last(_flat(self._cast(x)))
        found = _convolved(given, weight.laid, _padding(kernel), kernel.groups).to(x.dtype)
        return _last(found).squeeze(2) if kernel.dim == 1 else _last(found)

    @torch.no_grad()
    def _add(
        self, kernel: ConvKernel, weight: Weight, x: Tensor, onto: Tensor, factor: float
    ) -> None:
        flat = _flat(onto)
        fuses = x.dtype == onto.dtype and not self._bfloat16 and x.numel() > 0
        fuses &= flat.is_contiguous(memory_format=_LAST[flat.ndim])
        if fuses and self._filters(kernel, x):
            winograd.add_product(_last(x.detach()), weight.spread, onto, factor)
        elif fuses and factor == 1.0 and x.device.type == "cpu" and _sums(flat.ndim, x.dtype):
            given = _last(_flat(x.detach()))
            _add_by_onednn(flat, given, weight.laid, _padding(kernel), kernel.groups)
        else:
            onto.add_(self._product(kernel, weight, x), alpha=factor)


def _kernel(form: Form) -> ConvKernel:
    if not isinstance(form.kernel, ConvKernel):
        raise TypeError(f"expected a ConvKernel, got {type(form.kernel).__name__}")
    return form.kernel


def _flat(tensor: Tensor) -> Tensor:
    """States and weights of one dimension as those of two, one row high."""
    return tensor.unsqueeze(2) if tensor.ndim == 3 else tensor


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=_LAST[tensor.ndim])


def _padding(kernel: ConvKernel) -> list[int]:
    return [0, *kernel.padding] if kernel.dim == 1 else list(kernel.padding)


def _turned(kernel: ConvKernel, weight: Tensor) -> Tensor:
    """The weight whose convolution is the adjoint: channels swapped within each group, stencil flipped."""
    grouped = weight.reshape(kernel.groups, -1, *weight.shape[1:]).transpose(1, 2)
    return grouped.flatten(0, 1).flip(tuple(range(-kernel.dim, 0)))


def _convolved(x: Tensor, weight: Tensor, padding: list[int], groups: int) -> Tensor:
    ones = [1] * len(padding)
    if x.numel() > 0 and x.device.type == "cpu" and _direct(x.ndim, x.dtype):
        return torch.mkldnn_convolution(x, weight, None, padding, ones, ones, groups)
    return _PUBLIC[x.ndim](x, weight, None, ones, padding, ones, groups)


def _add_by_onednn(
    onto: Tensor, x: Tensor, weight: Tensor, padding: list[int], groups: int
) -> None:
    ones = [1] * len(padding)
    torch.ops.mkldnn._convolution_pointwise_.binary(
        onto, x, weight, None, padding, ones, ones, groups, "add", 1.0, None, [], None
    )


def _direct(ndim: int, dtype: torch.dtype) -> bool:
    """Whether oneDNN's convolution may be called; `torch.backends.mkldnn.flags` is heeded each time."""
    return bool(torch.backends.mkldnn.enabled) and _probed(ndim, dtype)


def _sums(ndim: int, dtype: torch.dtype) -> bool:
    return bool(torch.backends.mkldnn.enabled) and _probed_sum(ndim, dtype)


@functools.cache
def _probed(ndim: int, dtype: torch.dtype) -> bool:
    """Private to torch: used only where it is there and gives what the public convolution gives."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    x, weight, padding = _sample(ndim, dtype)
    ones = [1] * len(padding)
    try:
        found = torch.mkldnn_convolution(x, weight, None, padding, ones, ones, 2)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return _same(found, _expected(x, weight, padding), dtype)


@functools.cache
def _probed_sum(ndim: int, dtype: torch.dtype) -> bool:
    if dtype != torch.float32:
        return False
    x, weight, padding = _sample(ndim, dtype)
    onto = _last(x.flip(1))
    expected = onto + _expected(x, weight, padding)
    try:
        _add_by_onednn(onto, x, weight, padding, 2)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return _same(onto, expected, dtype)


def _sample(ndim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[int]]:
    """A state of 4 channels, a weight in 2 groups, and the padding, without touching torch's generator."""
    space = [3, 5, 4][: ndim - 2]
    stencil = [3] * (ndim - 2)
    x = torch.linspace(-1, 1, 4 * math.prod(space), device="cpu").cos().reshape(1, 4, *space)
    weight = torch.linspace(-2, 2, 8 * math.prod(stencil), device="cpu").sin()
    return _last(x.to(dtype)), _last(weight.reshape(4, 2, *stencil).to(dtype)), [1] * (ndim - 2)


def _expected(x: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """In float64, which oneDNN has not."""
    return _PUBLIC[x.ndim](x.double(), weight.double(), None, 1, padding, 1, 2)


def _same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    error = (found.double() - expected).abs().max()
    return found.shape == expected.shape and bool(error <= tolerance * expected.abs().max())


def _weight_gradient(kernel: ConvKernel, x: Tensor, g: Tensor) -> Tensor:
    x, g = _last(_flat(x)), _last(_flat(g))
    padding = _padding(kernel)
    if _falls(kernel, x):
        axis = max(range(2, x.ndim), key=lambda axis: x.shape[axis])
        if x.shape[axis] > 1:
            x, g = _halves(x, axis, padding[axis - 2]), _halves(g, axis, 0)
            padding[axis - 2] = 0
    stencil = [1, *kernel.stencils] if kernel.dim == 1 else list(kernel.stencils)
    like = _last(x.new_empty(kernel.outputs, kernel.inputs // kernel.groups, *stencil))
    ones = [1] * len(padding)
    wanted = [False, True, False]
    return torch.ops.aten.convolution_backward(
        g, x, like, None, ones, padding, ones, False, [0] * len(padding), kernel.groups, wanted
    )[1]


def _falls(kernel: ConvKernel, x: Tensor) -> bool:
    """Whether ATen would leave oneDNN because the batch is one small sample."""
    large = kernel.dim > 1 and min(kernel.stencils[-2:]) > 3
    small = math.prod(x.shape[:4]) <= _ATEN_LEAST
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and len(x) == 1
    return plain and small and kernel.groups == 1 and not large


def _halves(x: Tensor, axis: int, halo: int) -> Tensor:
    """One sample as two: each half of the axis with ``halo`` more on both sides, zeros past the ends."""
    size = x.shape[axis]
    half = -(-size // 2)
    if halo == 0 and axis == 2 and size == 2 * half:  # memory as it lies
        return x.movedim(1, -1).view(2, half, *x.shape[3:], x.shape[1]).movedim(-1, 1)
    shape = [2, *x.shape[2:], x.shape[1]]
    shape[axis - 1] = half + 2 * halo
    halves = x.new_empty(shape).movedim(-1, 1)
    for part in range(2):
        first = part * half - halo
        low, high = max(first, 0), min(first + half + 2 * halo, size)
        dest = halves[part : part + 1]
        dest.narrow(axis, 0, low - first).zero_()
        dest.narrow(axis, low - first, high - low).copy_(x.narrow(axis, low, high - low))
        dest.narrow(axis, high - first, first + half + 2 * halo - high).zero_()
    return halves
