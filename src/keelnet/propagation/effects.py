"""Effects: what evaluating a layer changes beside its result, and would change once more when evaluated again."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from keelnet.dynamics.fields import Dynamics
from keelnet.dynamics.forms import forms_of
from keelnet.dynamics.holders import Generator
from keelnet.propagation.integrators import Integrator, State

READ = ("cpu", "cuda", "meta")  # devices of whose generators the states are read
FEW = 10_000  # numbers of a buffer that are all compared; of more, about as many, spread over it


def without_effects(
    layer: Callable[[], State], integrator: Integrator, field: Dynamics, state: State, replays: bool
) -> State:
    """``layer()``, which moves ``state``; raises ValueError where evaluating it again would do harm or differ.

    ``replays``: torch's generators are set back before that (kn.checkpointed), else they are not (kn.reversible).
    """
    if _is_bent_map(integrator, field) or is_transformed():
        return layer()
    device, strategy = state[0].device, "checkpointed" if replays else "reversible"
    before = Surroundings.of(integrator, field, device)
    moved = layer()
    after = Surroundings.of(integrator, field, device)
    name = type(getattr(field, "branch", field)).__name__
    effect = before.effect(after)
    # What is filled once (a table of positions, a scale taken from the first features) does no harm.
    if effect is not None and not _settled(
        before, layer, moved, lambda: Surroundings.of(integrator, field, device)
    ):
        raise ValueError(
            f"strategy kn.{strategy} evaluates each layer twice, but {name} {effect} every time;"
            " call .eval() or use strategy=kn.store_all"
        )
    # Of other devices the operations have to tell; a trace knows no more than these states.
    told = device.type in READ or torch.compiler.is_compiling()
    still = told and before.generators.same_torch(after.generators)
    if not (replays or still) and draws(layer, moved, device):
        raise ValueError(
            f"{name} draws random numbers (dropout?), so strategy=kn.reversible cannot"
            " evaluate it again; call .eval() or use strategy=kn.checkpointed"
        )
    # A draw alone says little: another thread may have drawn, or what checks types at every call. So does a count.
    if not before.same_others(after) and not alike(moved, before.again(layer, device)):
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
    return after.effect(look()) is None and alike(moved, again)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Whether an operation draws random numbers in this thread; all threads share torch's generators."""

    seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def draws(layer: Callable[[], State], moved: State, device: torch.device) -> bool:
    """Whether it was the layer that moved torch's generators, and no other thread.

    That both values are alike does not tell: a mask of dropout may come twice, or change a gradient alone.
    """
    if torch.compiler.is_compiling():
        return True
    once = _torch_states(device)
    with torch.no_grad(), _Draws() as drawn:  # type: ignore[no-untyped-call]
        again = layer()
    found = drawn.seen or not alike(moved, again)
    if found:
        _set_back(once, device)
    return found


def _is_bent_map(integrator: Integrator, field: Dynamics) -> bool:
    """Whether the layer is keelnet's own, which has no effects."""
    return type(integrator).__module__.startswith("keelnet.") and forms_of(field) is not None


def is_transformed() -> bool:
    """Whether a transform of torch.func is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def alike(state: State, other: State) -> bool:
    """Whether two evaluations differ by no more than their rounding, which some devices do not repeat."""
    pairs = ((a.detach(), b.detach()) for a, b in zip(state, other, strict=True))
    return not any(
        float((a - b).norm()) > torch.finfo(a.dtype).eps ** 0.5 * float(b.norm()) for a, b in pairs
    )


@dataclass(frozen=True, eq=False)
class Generators:
    """The states of the common generators: torch's of host and device, Python's and NumPy's (None while it compiles)."""

    torch_states: tuple[Tensor, Tensor | None]
    others: tuple[object, object] | None

    @classmethod
    def of(cls, device: torch.device) -> Generators:
        """As they are now."""
        compiling = torch.compiler.is_compiling()  # a trace knows no more
        return cls(
            _torch_states(device),
            None if compiling else (random.getstate(), _numpy_state(mtrand._rand)),
        )

    def same_torch(self, after: Generators) -> bool:
        """Whether torch drew nothing, on host and device, if that is `READ`."""
        pairs = zip(self.torch_states, after.torch_states, strict=True)
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)  # fmt: skip

    def same_others(self, after: Generators) -> bool:
        """Whether neither Python's random nor NumPy drew."""
        return self.others == after.others


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a layer may use beside its arguments: the common generators, and the buffers and generators of method and field."""

    generators: Generators
    buffers: dict[str, _Buffer]
    own: tuple[object, ...]  # states of the generators that method and field hold

    @classmethod
    def of(cls, integrator: Integrator, field: Dynamics, device: torch.device) -> Surroundings:
        generators = Generators.of(device)
        if generators.others is None:
            return cls(generators, {}, ())
        holders = integrator, field
        found = (each for holder in holders for each in holder.remembered())
        buffers = {name: _Buffer(value, _version(value), _sample(value)) for name, value in found}
        held = (each for holder in holders for each in holder.generators())
        return cls(generators, buffers, tuple(_state_of(each) for each in held if _is_own(each)))

    def effect(self, after: Surroundings) -> str | None:
        """In words, the first buffer of real numbers that was written to or replaced by others, or that a generator moved."""
        for name in self._changed(after):
            if _is_real(after.buffers[name].value):
                return f"changes its buffer {name}"
        return "draws from a generator of its own" if self.own != after.own else None

    def _changed(self, after: Surroundings) -> Iterator[str]:
        for name, buffer in after.buffers.items():
            before = self.buffers.get(name)
            if before is None or not _is_same(before, buffer):
                yield name

    def same_others(self, after: Surroundings) -> bool:
        """Whether neither Python's random nor NumPy drew, and no buffer that counts was changed."""
        quiet = self.generators.same_others(after.generators)
        return quiet and next(self._changed(after), None) is None

    def again(self, layer: Callable[[], State], device: torch.device) -> State:
        """The layer as it is evaluated for a gradient: torch draws the same numbers, others do not."""
        after = _torch_states(device)
        _set_back(self.generators.torch_states, device)
        try:
            with torch.no_grad():
                return layer()
        finally:
            _set_back(after, device)


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


class _Buffer(NamedTuple):
    """A buffer as it was found. The tensor itself is kept: a new one in the place of another may get its address."""

    value: Tensor
    version: int  # goes up where it is written to
    sample: Tensor | None  # for what is written past the version: through .data, or by NumPy


def _sample(value: Tensor) -> Tensor | None:
    """A copy of its numbers, or of `FEW` of them; None where they are not to be read."""
    plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
    if not plain or value.is_meta or value.is_quantized or _captures(value.device):
        return None
    few = value.detach()
    if few.numel() > FEW:
        few = few.flatten()[:: few.numel() // FEW]
    return few.clone()


def _is_same(before: _Buffer, after: _Buffer) -> bool:
    """Whether a buffer holds what it held."""
    old, new = before.value, after.value
    if old is new:
        return before.version == after.version and _is_equal(before.sample, after.sample)
    if _version(old) != before.version or (old.shape, old.dtype, old.device) != (new.shape, new.dtype, new.device):  # fmt: skip
        return False
    # A table that is made anew at every call.
    return not _captures(new.device) and torch.equal(old, new)


def _is_equal(sample: Tensor | None, other: Tensor | None) -> bool:
    """Also where some are NaN, or there are none to be compared."""
    if sample is None or other is None or torch.equal(sample, other):
        return True
    return torch.allclose(sample, other, rtol=0, atol=0, equal_nan=True)


def _is_own(generator: Generator) -> bool:
    """Whether it is none of the common ones, and can be looked at."""
    of_torch = (torch.default_generator, *torch.cuda.default_generators)
    if any(generator is each for each in (*of_torch, random._inst, mtrand._rand)):
        return False
    return not (isinstance(generator, torch.Generator) and _captures(generator.device))


def _state_of(generator: Generator) -> object:
    """To be compared; of the system's, which keeps none that could be told, another one each time."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, random.SystemRandom):
        return object()
    return generator.getstate() if isinstance(generator, random.Random) else _numpy_state(generator)


def _captures(device: torch.device) -> bool:
    """Whether a look at the device would end a graph capture."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _numpy_state(generator: np.random.Generator | np.random.RandomState) -> object:
    """Of one of NumPy's generators, to be compared."""
    state: Any
    if isinstance(generator, np.random.Generator):
        state = generator.bit_generator.state
    else:
        state = generator.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        return pickle.dumps(state)
    return state["state"]["pos"], state["state"]["key"].tobytes(), state.get("has_gauss")


def _torch_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Those of the generators of host and device, if that is `READ`."""
    looked = device.type == "cuda" and not _captures(device)
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if looked else None


def _set_back(states: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    host, other = states
    torch.set_rng_state(host)
    if other is not None:
        torch.cuda.set_rng_state(other, device)
