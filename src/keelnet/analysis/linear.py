"""Linear: convolutions and frozen norms as the linear maps that they are, so that their derivatives keep and repeat nothing.

Torch keeps the input of a convolution for the gradient of its weights, and computes that gradient whenever it
differentiates twice. Derivatives by the input alone need neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as trees

Numbers = int | tuple[int, ...] | list[int]


def linearised(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same map, whose graph holds neither what parameters would need nor the inputs of linear operations.

    For derivatives by its input: parameters get none. Norms must use running statistics (evaluation mode). Parts that
    are checkpointed run as written.
    """

    def same(x: Tensor) -> Tensor:
        with _Linear():
            return function(x)

    return same


@dataclass(frozen=True, eq=False)
class Convolution:
    """x ↦ x * weight without bias, or (``transposed``) its transpose; ``space`` is the extent of x."""

    weight: Tensor
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    transposed: bool
    more: list[int]  # "output padding": which of the extents that shrink to the same is meant
    space: list[int]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.convolution(
            x, self.weight, None, self.stride, self.padding, self.dilation, self.transposed, self.more, self.groups
        )  # fmt: skip

    def adjoint(self, space: list[int]) -> Convolution:
        """The transpose, a map of values of extent ``space``."""
        more = [0] * len(space)
        if not self.transposed:
            more = [
                whole - (size - 1) * stride + 2 * padding - dilation * (kernel - 1) - 1
                for whole, size, stride, padding, dilation, kernel in zip(
                    self.space, space, self.stride, self.padding, self.dilation,
                    self.weight.shape[2:], strict=True,
                )
            ]  # fmt: skip
        return replace(self, transposed=not self.transposed, more=more, space=space)


class Applied(torch.autograd.Function):
    """y = A x; its derivative Aᵀ w is of the same kind."""

    @staticmethod
    def forward(context: Any, x: Tensor, convolution: Convolution) -> Tensor:
        y = convolution(x)
        context.adjoint = convolution.adjoint(list(y.shape[2:]))
        return y

    @staticmethod
    def backward(context: Any, w: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return Applied.apply(w, context.adjoint), None  # type: ignore[no-untyped-call]


class _Linear(TorchFunctionMode):
    """Every parameter is a constant, and operations with a rule follow it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keeper = _keeper()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Checkpointing keeps by hooks of its own what an operation saves, and computes it again when this mode has
        # ended: both times must save the same.
        if _keeper() is not self.keeper:
            return func(*args, **(kwargs or {}))
        args, kwargs = trees.tree_map_only(nn.Parameter, torch.Tensor.detach, (args, kwargs or {}))
        return RULES.get(func, func)(*args, **kwargs)


def _keeper() -> object:
    """The hook that packs what is saved for the backward pass; None where there is none."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if hooks is None else hooks[0]


def _plain(input: Tensor, weight: Tensor) -> bool:
    """Whether a convolution is left to torch: no linear map of its input alone, or one that rules here do not cover.

    A weight that depends on the features has a derivative of its own (parameters are constants by now). Complex maps
    have another adjoint, autocast another type, and torch.func wraps its tensors; forward mode keeps nothing.
    """
    return (
        weight.requires_grad
        or weight.is_complex()
        or input.is_complex()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch.is_autocast_enabled(input.device.type)
    )


def _convolved(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
    ) -> Tensor:
        axes = weight.ndim - 2
        if isinstance(padding, str) or input.ndim != weight.ndim or _plain(input, weight):
            return function(input, weight, bias, stride, padding, dilation, groups)
        steps, pads, spread = (_each(value, axes) for value in (stride, padding, dilation))
        space = list(input.shape[2:])
        map_of = Convolution(weight, steps, pads, spread, groups, False, [0] * axes, space)
        return _added(input, map_of, bias)

    return rule


def _transposed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        dilation: Numbers = 1,
    ) -> Tensor:
        axes = weight.ndim - 2
        if _plain(input, weight):
            return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
        more, steps = _each(output_padding, axes), _each(stride, axes)
        if input.ndim != weight.ndim or any(a >= b for a, b in zip(more, steps, strict=True)):
            return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
        pads, spread = _each(padding, axes), _each(dilation, axes)
        space = list(input.shape[2:])
        map_of = Convolution(weight, steps, pads, spread, groups, True, more, space)
        return _added(input, map_of, bias)

    return rule


def _each(value: Numbers, axes: int) -> list[int]:
    found = [value] if isinstance(value, int) else list(value)
    return found * axes if len(found) == 1 else found


def _added(x: Tensor, convolution: Convolution, bias: Tensor | None) -> Tensor:
    y: Tensor = Applied.apply(x, convolution)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """By running statistics x ↦ a x + b."""
    if training or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    shape = (-1, *[1] * (input.ndim - 2))
    return input * scale.reshape(shape) + shift.reshape(shape)


RULES: dict[Any, Callable[..., Any]] = {
    **{each: _convolved(each) for each in (torch.conv1d, torch.conv2d, torch.conv3d)},
    **{
        each: _transposed(each)
        for each in (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
    },
    F.batch_norm: _batch_norm,
}
