"""Any nn.Module as a field: a user's own residual branch under Euler, Verlet, Leapfrog, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from keelnet.dynamics.fields import Field, Parts, Slot, Theta
from keelnet.dynamics.hamiltonian import PartitionedField


@dataclass(frozen=True, eq=False)
class ModuleField(Field):
    """y' = module(y): a user's own residual branch.

    The module must keep the shape of its input. Controls are its parameters by name, layers first:
    ``ModuleField.stacked([branch_1, branch_2, …])`` makes them from one module a layer. A name
    that is absent is taken from the module itself, shared by every layer (then pass ``depth``).
    Verlet takes the branch in both halves, y' = module(z), z' = −module(y): features of
    ``channels`` channels on ``axis`` start z at 0, twice as many are split in two halves. Without
    ``channels`` they are what the module's first layer reads; where that cannot be told, features
    are split.
    """

    module: nn.Module
    channels: int | None = None
    axis: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise ValueError(f"ModuleField needs an nn.Module, got {self.module!r}")

    @property
    def channel_axis(self) -> int:
        return self.axis

    @property
    def width(self) -> int | None:
        """Channels of the state, as told or as the first layer with a size reads them."""
        return self.channels if self.channels is not None else _channels_read(self.module)

    @staticmethod
    def stacked(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Controls from one module a layer; gradients flow back to the modules' own parameters."""
        if not modules:
            raise ValueError("stacked needs at least one module")
        layers = [dict(module.named_parameters()) for module in modules]
        if any(layer.keys() != layers[0].keys() for layer in layers):
            raise ValueError("stacked needs modules with the same parameter names")
        return {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}

    def theta_shapes(self) -> dict[str, Slot]:
        return {
            name: Slot(tuple(value.shape), optional=True, initial=value.detach())
            for name, value in self.module.named_parameters()
        }

    def prepared(self, controls: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
        own = {
            name: value.expand(depth, *value.shape)
            for name, value in self.module.named_parameters()
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
        value = functional_call(self.module, dict(theta), (y,))
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
            remembers = isinstance(part, _InstanceNorm) and part.track_running_stats
            if part.training and (isinstance(part, _BatchNorm) or remembers):
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

    def is_split(self, y0: Tensor) -> bool:
        return y0.ndim <= self.branch.axis or y0.shape[self.branch.axis] != self.branch.width

    def parts(self, y0: Tensor) -> Parts:
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

    def rate_of_y(self, z: Tensor, theta: Theta) -> Tensor:
        return self.branch.rate(z, theta)

    def rate_of_z(self, y: Tensor, theta: Theta) -> Tensor:
        return -self.branch.rate(y, theta)


def _channels_read(module: nn.Module) -> int | None:
    """What the first layer of a known kind reads; None where there is none."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            return part.in_features
        if isinstance(part, _ConvNd):
            return part.in_channels
        if isinstance(part, _NormBase):
            return part.num_features
        if isinstance(part, nn.GroupNorm):
            return part.num_channels
        if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
            return part.normalized_shape[0]
    return None
