"""Effects: what evaluating a layer changes beside its result, and would change once more when evaluated again."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keelnet.dynamics.fields import Dynamics
from keelnet.dynamics.forms import forms_of
from keelnet.propagation.integrators import Integrator, State


def without_effects(
    layer: Callable[[], State], integrator: Integrator, field: Dynamics, state: State, replays: bool
) -> State:
    """``layer()``, which moves ``state``; raises ValueError where evaluating it again would do harm or differ.

    ``replays``: torch's generators are set back before that (kn.checkpointed), else they are not (kn.reversible).
    """
    if _is_bent_map(integrator, field) or _is_transformed():
        return layer()
    device, strategy = state[0].device, "checkpointed" if replays else "reversible"
    before = Surroundings.of(integrator, field, device)
    moved = layer()
    after = Surroundings.of(integrator, field, device)
    name = type(getattr(field, "branch", field)).__name__
    buffer = before.changed_buffer(after)
    # What is filled once (a table of positions, a scale taken from the first features) does no harm.
    if buffer is not None and not _settled(
        before, layer, moved, lambda: Surroundings.of(integrator, field, device)
    ):
        raise ValueError(
            f"strategy kn.{strategy} evaluates each layer twice, but {name} changes its buffer {buffer} every"
            " time; call .eval() or use strategy=kn.store_all"
        )
    if not replays and not before.same_torch(after):
        raise ValueError(
            f"{name} draws random numbers (dropout?), so strategy=kn.reversible cannot"
            " evaluate it again; call .eval() or use strategy=kn.checkpointed"
        )
    # A draw alone says little: another thread may have drawn, or what checks types at every call. So does a count.
    if not before.same_others(after) and not _alike(moved, before.again(layer, device)):
        raise ValueError(
            f"{name} gives another value each time (by numbers of Python's random or of NumPy, or a count?), so"
            f" strategy=kn.{strategy} cannot evaluate it again; call .eval() or use strategy=kn.store_all"
        )
    return moved


def _settled(
    before: Surroundings, layer: Callable[[], State], moved: State, look: Callable[[], Surroundings]
) -> bool:
    """Whether the layer, evaluated once more, leaves the buffers alone and gives the same."""
    after = look()
    again = before.again(layer, moved[0].device)
    return after.changed_buffer(look()) is None and _alike(moved, again)


def _is_bent_map(integrator: Integrator, field: Dynamics) -> bool:
    """Whether the layer is keelnet's own, which has no effects."""
    return type(integrator).__module__.startswith("keelnet.") and forms_of(field) is not None


def _is_transformed() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def _alike(state: State, other: State) -> bool:
    """Whether two evaluations differ by no more than their rounding, which some devices do not repeat."""
    pairs = ((a.detach(), b.detach()) for a, b in zip(state, other, strict=True))
    return not any(
        float((a - b).norm()) > torch.finfo(a.dtype).eps ** 0.5 * float(b.norm()) for a, b in pairs
    )


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a layer may use beside its arguments: the common generators, and the buffers of method and field."""

    torch_states: tuple[Tensor, Tensor | None]
    others: tuple[object, object] | None
    buffers: dict[str, tuple[Tensor, int]]

    @classmethod
    def of(cls, integrator: Integrator, field: Dynamics, device: torch.device) -> Surroundings:
        if torch.compiler.is_compiling():  # a trace knows no more
            return cls(_torch_states(device), None, {})
        others = random.getstate(), _numpy_state()
        # The tensors themselves are kept: a new one in the place of another may get its address.
        buffers = {
            name: (value, _version(value))
            for holder in (integrator, field)
            for name, value in holder.remembered()
        }
        return cls(_torch_states(device), others, buffers)

    def changed_buffer(self, after: Surroundings) -> str | None:
        """The first buffer of real numbers that was written to, or replaced by other numbers."""
        return next((name for name in self._changed(after) if _is_real(after.buffers[name][0])), None)  # fmt: skip

    def _changed(self, after: Surroundings) -> Iterator[str]:
        for name, (value, version) in after.buffers.items():
            before = self.buffers.get(name)
            if before is None or not _is_same(*before, value, version):
                yield name

    def same_torch(self, after: Surroundings) -> bool:
        """Whether torch drew nothing, on host and device."""
        pairs = zip(self.torch_states, after.torch_states, strict=True)
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)  # fmt: skip

    def same_others(self, after: Surroundings) -> bool:
        """Whether neither Python's random nor NumPy drew, and no buffer that counts was changed."""
        return self.others == after.others and next(self._changed(after), None) is None

    def again(self, layer: Callable[[], State], device: torch.device) -> State:
        """The layer as it is evaluated for a gradient: torch draws the same numbers, others do not."""
        after = _torch_states(device)
        _set_back(self.torch_states, device)
        try:
            with torch.no_grad():
                return layer()
        finally:
            _set_back(after, device)


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _is_same(before: Tensor, old: int, value: Tensor, new: int) -> bool:
    """Whether a buffer holds what it held; ``old``, ``new``: the versions of the tensors, which go up where one is written to."""
    if before is value:
        return old == new
    if _version(before) != old or (before.shape, before.dtype, before.device) != (value.shape, value.dtype, value.device):  # fmt: skip
        return False
    # A table that is made anew at every call.
    capturing = value.is_cuda and torch.cuda.is_current_stream_capturing()
    return not capturing and torch.equal(before, value)


def _numpy_state() -> object:
    """Of NumPy's common generator, to be compared."""
    state: Any = np.random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":  # another one can be put in its place
        return pickle.dumps(state)
    return state["state"]["pos"], state["state"]["key"].tobytes(), state["has_gauss"]


def _torch_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Those of the generators of host and device; a look at the latter would end a graph capture."""
    looked = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if looked else None


def _set_back(states: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    host, other = states
    torch.set_rng_state(host)
    if other is not None:
        torch.cuda.set_rng_state(other, device)
