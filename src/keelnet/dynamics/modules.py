"""Any nn.Module as a field: a user's own residual branch under Euler, Verlet, Leapfrog, …"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from keelnet.dynamics.checkpoints import require_no_checkpoint
from keelnet.dynamics.copies import copied
from keelnet.dynamics.fields import Field, Parts, Slot, Theta
from keelnet.dynamics.hamiltonian import PartitionedField
from keelnet.dynamics.holders import Generator
from keelnet.dynamics.likeness import require_alike


@dataclass(frozen=True, eq=False)
class ModuleField(Field):
    """y' = module(y): a user's own residual branch.

    The module must keep the shape of its input. Controls are its parameters by name, layers first:
    ``ModuleField.stacked([branch_1, branch_2, …])`` makes them from one module a layer. A name
    that is absent is taken from the module itself, shared by every layer (then pass ``depth``).
    A Block holds a copy of the module, with its mode and buffers; shared parameters stay the module's own.
    The module runs with other numbers in every layer, so it must not checkpoint itself (torch.utils.checkpoint), which
    would evaluate it again with its own: switch that off and use strategy=kn.checkpointed.
    Verlet takes the branch in both halves, y' = module(z), z' = −module(y): features of
    ``channels`` channels on ``axis`` start z at 0, twice as many are split in two halves. Without
    ``channels`` they are what the module's first layer reads; where that cannot be told, features
    are split.
    """

    module: nn.Module
    channels: int | None = None
    axis: int = 1
    # Where in the module stand what a Control holds, by its name there (two places where it is tied).
    templates: Mapping[str, str] = field(default_factory=dict, repr=False, kw_only=True)
    # Of those the names that were not trained in the module.
    frozen: Collection[str] = field(default=(), repr=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise ValueError(f"ModuleField needs an nn.Module, got {self.module!r}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Files of early versions have none of these.
        vars(self).update({"templates": {}, "frozen": ()} | state)

    @property
    def channel_axis(self) -> int:
        return self.axis

    @property
    def width(self) -> int | None:
        """Channels of the state, as told or as the first layer with a size reads them."""
        if self.channels is not None:
            return self.channels
        first = _first_layer(self.module)
        return None if first is None else first.channels

    @staticmethod
    def stacked(modules: Sequence[nn.Module], checked: bool = True) -> dict[str, Tensor]:
        """Controls from one module a layer; gradients flow back to the modules' own parameters.

        Raises ValueError for modules that differ in more than the numbers of their parameters; ``checked`` False
        leaves out that look, for modules that passed it and are stacked at every step.
        """
        if not modules:
            raise ValueError("stacked needs at least one module")
        if checked:
            require_alike(modules)
        layers = [dict(module.named_parameters()) for module in modules]
        return {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}

    def owned(self, names: Collection[str]) -> ModuleField:
        # Templates are buffers that are not saved: they move with the module, but are no parameters of it.
        named = {value: name for name, value in self.module.named_parameters()}
        shared = {id(value): value for value, name in named.items() if name not in names}
        module = copied(self.module, {**shared})
        places = {}
        for place, value in self.module.named_parameters(remove_duplicate=False):
            path, _, leaf = place.rpartition(".")
            holder = module.get_submodule(path)
            # A part that has two places is met twice, and is changed once.
            if named[value] in names and leaf not in holder._buffers:
                places[place] = named[value]
                template = holder.get_parameter(leaf).detach()
                delattr(holder, leaf)
                holder.register_buffer(leaf, template, persistent=False)
        templates = {**self.templates, **places}
        still = [name for value, name in named.items() if not value.requires_grad and name in names]
        return replace(self, module=module, templates=templates, frozen=(*self.frozen, *still))

    def held(self) -> dict[str, nn.Module | nn.Parameter]:
        return {"module": self.module}

    def remembered(self) -> Iterator[tuple[str, Tensor]]:
        with _turn(self.module):  # while it runs, its templates are lent
            found = [*self.module.named_buffers()]
        return ((name, value) for name, value in found if name not in self.templates)

    def _own(self) -> dict[str, Tensor]:
        """The module's parameters and templates by their control names."""
        names = dict.fromkeys(self.templates.values())
        with _turn(self.module):  # while it runs, its templates are lent
            return dict(self.module.named_parameters()) | {
                name: self.module.get_buffer(name) for name in names
            }

    @cached_property
    def _holders(self) -> list[tuple[nn.Module, str]]:
        """Where the templates lie; parts that are replaced after the first run are not looked for again."""
        places = [place.rpartition(".") for place in self.templates]
        return [(self.module.get_submodule(path), leaf) for path, _, leaf in places]

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """Templates are parameters for as long as the module runs: its forward may look for them there."""
        holders = [(holder, leaf) for holder, leaf in self._holders if leaf in holder._buffers]
        for holder, leaf in holders:
            holder._parameters[leaf] = holder._buffers.pop(leaf)  # type: ignore[assignment]
        try:
            yield
        finally:
            for holder, leaf in holders:
                holder._buffers[leaf] = holder._parameters.pop(leaf)

    def theta_shapes(self) -> dict[str, Slot]:
        own, templates = self._own(), self.templates.values()
        frozen = {name for name, value in own.items() if not value.requires_grad}
        frozen = frozen.difference(templates).union(self.frozen)  # no template is trained itself
        return {
            name: Slot(tuple(x.shape), optional=True, initial=x.detach(), frozen=name in frozen)
            for name, x in own.items()
        }

    def prepared(self, controls: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
        own = {
            name: value.expand(depth, *value.shape)
            for name, value in self._own().items()
            if name not in controls
        }
        return controls | own

    def parts(self, y0: Tensor) -> Parts:
        if y0.ndim <= self.axis or self.channels not in (None, y0.shape[self.axis]):
            raise ValueError(
                f"the module needs {self.channels or 'its'} channels on axis {self.axis} of the state,"
                f" got {tuple(y0.shape)}"
            )
        return (y0,)

    def rate(self, y: Tensor, theta: Theta) -> Tensor:
        watched = not (y.is_inference() or torch.compiler.is_compiling())
        before = y._version if watched else 0
        begun = torch.autograd._get_sequence_nr() if watched else 0  # type: ignore[attr-defined]
        tied = {place: theta[name] for place, name in self.templates.items() if name in theta}
        with _turn(self.module), self._lent():
            value = functional_call(self.module, {**theta, **tied}, (y,))
        if watched and isinstance(value, Tensor):
            require_no_checkpoint(self.module, value, (y, *theta.values()), begun)
        name = type(self.module).__name__
        if watched and y._version != before:
            raise ValueError(
                f"{name} changes its input in place, but the integrator still needs it;"
                " use inplace=False in its first layer"
            )
        if not isinstance(value, Tensor) or value.shape != y.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                "a residual branch must keep the shape of its input, but"
                f" {name} turned {tuple(y.shape)} into {found}"
            )
        return value

    def paired(self) -> PartitionedField:
        return _ModulePair(self)

    def recomputation_obstacle(self, replays_randomness: bool) -> str | None:
        for name, part in self.module.named_modules():
            where = f"{type(part).__name__} at {name or 'the top'}"
            remembers = isinstance(part, (_BatchNorm, _InstanceNorm)) and part.track_running_stats
            if part.training and remembers:
                return f"{where} would update its statistics twice"
            dropping = isinstance(part, _DropoutNd) and part.p > 0
            if part.training and dropping and not replays_randomness:
                return f"{where} gives another value each time"
        return None


@dataclass(frozen=True, eq=False)
class _ModulePair(PartitionedField):
    """y' = module(z), z' = −module(y)."""

    branch: ModuleField

    @property
    def channel_axis(self) -> int:
        return self.branch.axis

    def theta_shapes(self) -> dict[str, Slot]:
        return self.branch.theta_shapes()

    def prepared(self, controls: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
        return self.branch.prepared(controls, depth)

    def recomputation_obstacle(self, replays_randomness: bool) -> str | None:
        return self.branch.recomputation_obstacle(replays_randomness)

    def remembered(self) -> Iterator[tuple[str, Tensor]]:
        return self.branch.remembered()

    def generators(self) -> Iterator[Generator]:
        return self.branch.generators()

    def is_split(self, y0: Tensor) -> bool:
        return y0.ndim <= self.branch.axis or y0.shape[self.branch.axis] != self.branch.width

    def parts(self, y0: Tensor) -> Parts:
        self._require_axis(y0)
        if not self.is_split(y0):
            return y0, torch.zeros_like(y0)
        axis, channels = self.branch.axis, self.branch.width
        found = y0.shape[axis] if y0.ndim > axis else 0
        if found == 0 or found % 2 or channels not in (None, found // 2):
            wanted = f"{channels} or {2 * channels}" if channels else "an even number of"
            raise ValueError(
                f"under Verlet the module needs {wanted} channels on axis {axis} of the state,"
                f" got {tuple(y0.shape)}"
            )
        y, z = y0.chunk(2, dim=axis)
        return y, z

    def _require_axis(self, y0: Tensor) -> None:
        """Where the module tells that it reads the last axis, another one would be split by chance.

        A last axis of another size is not what it reads: the module moves its channels there by itself.
        """
        first, axis = _first_layer(self.branch.module), self.branch.axis
        if self.branch.channels is not None or first is None or not first.reads_last:
            return
        reads = y0.ndim > axis and y0.shape[-1] == first.channels
        if reads and axis % y0.ndim != y0.ndim - 1:
            raise ValueError(
                f"the first layer ({first.kind}) reads the last axis of {tuple(y0.shape)}, but channels were"
                f" said to lie on axis {axis}; pass axis={y0.ndim - 1} (or channels=…, if they do)"
            )

    def rate_of_y(self, z: Tensor, theta: Theta) -> Tensor:
        return self.branch.rate(z, theta)

    def rate_of_z(self, y: Tensor, theta: Theta) -> Tensor:
        return -self.branch.rate(y, theta)


class _FirstLayer(NamedTuple):
    kind: str
    channels: int
    reads_last: bool = False


def _first_layer(module: nn.Module) -> _FirstLayer | None:
    """The first layer of a known kind, which tells what is read; None where there is none."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            return _FirstLayer("Linear", part.in_features, reads_last=True)
        if isinstance(part, _ConvNd):
            return _FirstLayer(type(part).__name__, part.in_channels)
        if isinstance(part, _NormBase):
            return _FirstLayer(type(part).__name__, part.num_features)
        if isinstance(part, nn.GroupNorm):
            return _FirstLayer("GroupNorm", part.num_channels)
        if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
            last = type(part) is nn.LayerNorm  # those of images move their channels themselves
            return _FirstLayer(type(part).__name__, part.normalized_shape[0], reads_last=last)
    return None


# functional_call puts the parameters of one layer into the module for as long as it runs.
_TURNS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_ASKING = threading.Lock()


def _turn(module: nn.Module) -> AbstractContextManager[object]:
    """One thread at a time; while torch.compile traces there is no module to guard."""
    if torch.compiler.is_compiling():
        return nullcontext()
    with _ASKING:
        return _TURNS.setdefault(module, threading.RLock())
