"""Passes on devices other than the processor: their formulas, each compiled by torch.compile."""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from keelnet.dynamics.activations import KNOWN
from keelnet.dynamics.norms import ChannelNorm, InstanceNorm
from keelnet.propagation.engines.pass_formulas import PassFormulas
from keelnet.propagation.engines.slopes import BY_ARGUMENT, BY_VALUE

DeviceNorm = ChannelNorm | InstanceNorm | None


class DevicePasses:
    """The same as `passes.Passes`, of one activation that keelnet knows."""

    def __init__(self, activation: str, norm: DeviceNorm) -> None:
        self._formulas = _formulas(activation, norm)

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
        self._run("bend", pre, bias, scale, target, dest, kept, _number(factor, pre), samples)

    def pull(
        self, kept: Tensor, costate: Tensor, dest: Tensor, sums: Tensor | None, factor: float
    ) -> None:
        self._run("pull", kept, costate, dest, _flat(sums), _number(factor, kept))

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
        self._run("unbend", pre, bias, target, costate, dest, _flat(sums), _number(factor, pre))

    def unnorm(
        self,
        pre: Tensor,
        costate: Tensor,
        scale: Tensor | None,
        dest: Tensor,
        sums: Tensor | None,
        samples: int,
    ) -> None:
        self._run("unnorm", pre, costate, scale, dest, sums, samples)

    def shift(self, target: Tensor, source: Tensor, factor: float) -> None:
        target.add_(source, alpha=factor)

    @torch.no_grad()
    def _run(self, work: str, *arguments: Any) -> None:
        # Cut off from what they are views of, to whose sizes a kernel would be bound too.
        cut = {id(each): each.data for each in arguments if isinstance(each, Tensor)}
        COMPILER.run(self._formulas, work, tuple(cut.get(id(each), each) for each in arguments))


class Compiler:
    """torch.compile; after its first failure the formulas run as they are, operation by operation."""

    def __init__(self) -> None:
        self.failure: str | None = None
        self._kernels: dict[Any, Callable[..., None]] = {}

    def run(self, formulas: PassFormulas, work: str, arguments: tuple[Any, ...]) -> None:
        kernel = self._kernel(formulas, work, arguments) if self.failure is None else None
        if kernel is not None:
            from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

            try:
                kernel(formulas, *arguments)
                return
            # Both come before anything runs, so no array has been written.
            except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                self._fail(error)
        getattr(formulas, work)(*arguments)

    def _kernel(
        self, formulas: PassFormulas, work: str, arguments: tuple[Any, ...]
    ) -> Callable[..., None] | None:
        key = (formulas, work, *_pattern(arguments))
        if key not in self._kernels:
            try:
                self._kernels[key] = torch.compile(_apart(work), fullgraph=True, dynamic=True)
            except RuntimeError as error:  # torch.compile lags behind new versions of Python
                self._fail(error)
        return self._kernels.get(key)

    def _fail(self, error: Exception) -> None:
        said = str(error).strip().split("\n\n")[0]  # advice on how to report it follows
        self.failure = " ".join(said.split())
        warnings.warn(
            f"torch.compile failed: {self.failure}. The fused engines run each operation of a pass"
            " by itself instead",
            RuntimeWarning,
            stacklevel=2,
        )


COMPILER = Compiler()


@functools.cache
def _formulas(activation: str, norm: DeviceNorm) -> PassFormulas:
    keeps_value = activation in BY_VALUE
    slope = BY_VALUE[activation] if keeps_value else BY_ARGUMENT[activation]
    return PassFormulas(KNOWN[activation].function, slope, keeps_value, norm)


def _apart(work: str) -> Callable[..., None]:
    """The formula with a code object of its own: torch counts recompilations by code object, up to eight."""
    formula = getattr(PassFormulas, work)
    return types.FunctionType(formula.__code__.replace(), formula.__globals__, work)


def _pattern(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """What asks for a kernel of its own: device, type, axes, which arrays coincide, sizes and offsets of 0 and 1."""
    first = arguments[0]
    given = [None if each is None else id(each) for each in arguments]
    return (
        first.device,
        first.dtype,
        *(given.index(each) for each in given),
        *map(_shape, arguments),
    )


def _shape(argument: Any) -> tuple[int, ...]:
    if not isinstance(argument, Tensor):
        return () if argument is None else (min(argument, 2),)
    return tuple(min(each, 2) for each in (argument.storage_offset(), *argument.shape))


def _flat(sums: Tensor | None) -> Tensor | None:
    """What is written to a number without axes is lost, in float64 on the processor (torch 2.13)."""
    return None if sums is None else sums.view(-1)


def _number(factor: float, like: Tensor) -> Tensor:
    """On the processor, from where kernels take it as an argument: a float would be part of their code."""
    return torch.tensor(factor, dtype=like.dtype, device="cpu")
