"""Which engine takes a propagation, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import noop_context_fn

from keelnet.propagation.engines.conv import Conv, Precision
from keelnet.propagation.engines.dense import Dense
from keelnet.propagation.engines.execution import Engine
from keelnet.propagation.engines.narrow import Narrow
from keelnet.propagation.engines.staged import Staged
from keelnet.propagation.engines.sweep import DEVICES
from keelnet.propagation.gradients import checkpointed, reversible, store_all
from keelnet.propagation.problem import Problem

ENGINES: tuple[Engine, ...] = (Narrow(), Dense(), Conv(), Staged())
Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
NAMES = ("auto", *(engine.name for engine in ENGINES), "reference")


@dataclass(frozen=True)
class Choice:
    """The engine of a propagation: its name, the reason, and why each faster one was passed over."""

    name: str
    reason: str
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.reason}"]
        return "\n".join(lines + [f"  not {name}: {why}" for name, why in self.refused.items()])


_ASKED: ContextVar[str] = ContextVar("engine", default="auto")
_LISTED: ContextVar[tuple[Engine, ...]] = ContextVar("engines", default=ENGINES)


@contextmanager
def engine(name: str = "auto", products: Precision = "state") -> Iterator[None]:
    """Within the block every propagation takes the engine ``name``.

    "reference" is the plain one; "auto" the usual choice. Any other name makes a propagation that
    this engine cannot take a ValueError. ``products="bfloat16"`` makes convolutions round their
    inputs and weights to bfloat16 while the state stays as it is; the gradient of what was computed
    in the block does the same, also when it is taken outside.
    """
    if name not in NAMES:
        raise ValueError(f"engine must be one of {', '.join(NAMES)}; got {name!r}")
    if products not in ("state", "bfloat16"):
        raise ValueError(f'products must be "state" or "bfloat16", got {products!r}')
    if products == "bfloat16" and name not in ("auto", "conv"):
        raise ValueError(f'only engine "conv" has products in bfloat16, not {name!r}')
    narrow = products == "bfloat16"
    with _asking("conv" if narrow else name, (Conv(products),) if narrow else ENGINES):
        yield


@contextmanager
def _asking(name: str, engines: tuple[Engine, ...]) -> Iterator[None]:
    asked, listed = _ASKED.set(name), _LISTED.set(engines)
    try:
        yield
    finally:
        _ASKED.reset(asked)
        _LISTED.reset(listed)


def as_now() -> Contexts:
    """``context_fn`` of torch's checkpoint: what is computed again takes the engine that is asked for now.

    A gradient may be taken outside of the block in which the value was computed, and in another thread.
    """
    if torch.compiler.is_compiling():  # traced as it is, and no engine takes it
        return noop_context_fn
    name, engines = _ASKED.get(), _LISTED.get()
    return lambda: (nullcontext(), _Asked(name, engines))


class _Asked(AbstractContextManager[None]):
    """`_asking`, as often as a graph that is retained is asked for gradients."""

    def __init__(self, name: str, engines: tuple[Engine, ...]) -> None:
        self.name, self.engines = name, engines
        self._open: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        asking = _asking(self.name, self.engines)
        asking.__enter__()
        self._open.append(asking)

    def __exit__(self, *raised: Any) -> None:
        self._open.pop().__exit__(*raised)


def chosen(problem: Problem) -> Engine | None:
    """The engine, None for the reference; raises ValueError where the one asked for cannot take it."""
    return _decided(problem)[0]


def explained(problem: Problem) -> Choice:
    """What ``chosen`` chooses, in words."""
    found, why, refused = _decided(problem)
    if found is None:
        return Choice("reference", why, refused)
    return Choice(found.name, found.reason(problem), refused)


def _decided(problem: Problem) -> tuple[Engine | None, str, dict[str, str]]:
    """The engine, None for the reference; why it is the reference; and why each engine before it was passed over."""
    asked = _ASKED.get()
    refused: dict[str, str] = {}
    if asked == "reference":
        return None, 'asked for by kn.engine("reference")', refused
    general = general_obstacle(problem)
    for candidate in _LISTED.get() if general is None else ():
        obstacle = candidate.obstacle(problem) if asked in ("auto", candidate.name) else "not asked"
        if obstacle is None:
            return candidate, "", refused
        refused[candidate.name] = obstacle
    if asked != "auto":
        raise ValueError(
            f'engine {asked!r} cannot take this call: {general or refused[asked]}; use "auto"'
        )
    return None, general or "no fused engine takes it", refused


def fused() -> bool:
    """Whether fused passes are wanted at all: not within ``engine("reference")``."""
    return _ASKED.get() != "reference"


def general_obstacle(problem: Problem) -> str | None:
    """What keeps a propagation from every fused engine."""
    if problem.strategy not in (store_all, checkpointed, reversible):
        return "the strategy is not one of keelnet's"
    tensors = problem.tensors
    first = tensors[0]
    if any(x.device != first.device for x in tensors):
        return "there are tensors on more than one device"
    if first.device.type not in DEVICES:
        return f"it is on {first.device.type}, not on {' or '.join(DEVICES)}"
    if any(x.dtype != first.dtype for x in tensors) or torch.is_autocast_enabled(first.device.type):
        return "the numbers have more than one type (autocast?)"
    if first.dtype not in (torch.float32, torch.float64):
        return f"{first.dtype} is neither float32 nor float64"
    if problem.moves is None and problem.stages is None:
        return (
            f"a layer of {type(problem.integrator).__name__} on {type(problem.field).__name__} is not"
            " a sequence of moves or stages by linear maps and activations that keelnet knows"
        )
    return watched(tensors) or ("there are no samples" if first.numel() == 0 else None)


def watched(tensors: tuple[Tensor, ...]) -> str | None:
    """Someone looks at every single operation: torch.func, torch.compile, tracing, a dispatch mode."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "the call is being traced"
    if _get_current_dispatch_mode() is not None:
        return "a dispatch mode wants to see every operation"
    if any(type(x) not in (Tensor, torch.nn.Parameter) for x in tensors):
        return "a tensor is of a class of its own"
    # Also where these tensors are not wrapped: torch then refuses any function without setup_context.
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "torch.func transforms the call"
    if torch.autograd.forward_ad._current_level >= 0:
        return "derivatives are taken forward"
    return None
