"""Controls θ(t): the one owner of a block's parameters, stored on knots in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from keelnet.dynamics.fields import Dynamics
from keelnet.dynamics.kernels import require_count

Interpolation = Literal["constant", "linear"]
_NO_IMAGE = "tensor to use channels_last"  # torch's words for one with another number of axes


class Control(nn.Module):
    """θ(t) on [0, T] from values on knots at t = m T / M, m = 0 … M − 1.

    ``interpolation`` "constant" holds each knot's value until the next one; "linear" joins them by
    straight lines and holds the last value to T. Layer j of N sees θ(j T / N), so N = M gives the
    knots themselves.

    values: one tensor a name, knots first; of a field without parameters none, then ``knots`` counts.
    Raises ValueError for unequal numbers of knots.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        interpolation: Interpolation = "linear",
        knots: int | None = None,
    ) -> None:
        super().__init__()
        counts = {name: value.shape[0] if value.ndim else 0 for name, value in values.items()}
        if knots is not None:
            counts["knots"] = knots
        if len(set(counts.values())) != 1 or min(counts.values()) < 1:
            raise ValueError(
                f"all controls need the same number of knots, at least 1; got {counts or 'none'}"
            )
        if interpolation not in ("constant", "linear"):
            raise ValueError(f'interpolation must be "constant" or "linear", got {interpolation!r}')
        self.knots = next(iter(counts.values()))
        self.interpolation: Interpolation = interpolation
        # A module's parameter names have no dots and are no attributes, but a ModuleField's may be.
        self._names: dict[str, str] = {}
        for name, value in values.items():
            stored = name.replace(".", "/")
            self._names[name] = stored + "/" if hasattr(self, stored) else stored
            kept = value if isinstance(value, nn.Parameter) else nn.Parameter(value.clone())
            self.register_parameter(self._names[name], kept)

    @classmethod
    def random(
        cls,
        field: Dynamics,
        knots: int,
        generator: torch.Generator | None = None,
        interpolation: Interpolation = "linear",
        gain: float = 1.0,
        bias: Literal["channel", "scalar", "none"] = "channel",
    ) -> Control:
        """First controls for a field: weights N(0, gain² / fan-in), biases 0, scales 1.

        A ModuleField starts from its module's own values; what is frozen there stays frozen. Every knot
        starts alike: a network that is constant in time is the smoothest one (½/h Σ‖Δθ‖² = 0).
        """
        require_count("knots", knots)
        if bias not in ("channel", "scalar", "none"):
            raise ValueError(f'bias must be "channel", "scalar" or "none", got {bias!r}')
        values: dict[str, Tensor] = {}
        for name, slot in field.theta_shapes().items():
            if name.startswith("bias") and bias == "none":
                continue
            shape = () if name.startswith("bias") and bias == "scalar" else slot.shape
            one = torch.full(shape, slot.fill)
            if slot.initial is not None:
                one = slot.initial.clone()
            elif slot.kernel is not None:
                one = drawn(shape, generator) * (gain / math.sqrt(slot.kernel.fan_in))
            value = one.expand(knots, *shape).clone()
            values[name] = nn.Parameter(value, requires_grad=False) if slot.frozen else value
        return cls(values, interpolation, knots)

    def values(self) -> dict[str, Tensor]:
        """The parameters by control name, knots first."""
        # Not get_parameter: torch.func.functional_call puts tensors in the parameters' places.
        return {name: getattr(self, stored) for name, stored in self._names.items()}

    def forward(self, depth: int) -> dict[str, Tensor]:
        """`at_layers`, as a Block asks for it: hooks that make a parameter anew (pruning) run before it."""
        return self.at_layers(depth)

    def at_layers(self, depth: int) -> dict[str, Tensor]:
        """θ at the layers' times, (depth, …) a name; the parameters themselves where depth = knots.

        With another number of knots (more than one) the layers' controls are new tensors, which the
        gradient keeps: they cost the memory of depth weights under every strategy.
        """
        require_count("depth", depth)
        return {name: self._sampled(value, depth) for name, value in self.values().items()}

    def refined(self, factor: int = 2) -> Control:
        """The same θ(t) on ``factor`` times as many knots; what is frozen stays so, and the mode is this one's."""
        require_count("factor", factor)
        methods = ("forward", "at_layers", "values")
        own = all(getattr(type(self), name) is getattr(Control, name) for name in methods)
        if not own or is_parametrized(self):
            raise ValueError(
                f"{type(self).__name__} makes its values in a way of its own, which a finer Control would not: override"
                " refined"
            )
        made = [name for name, stored in self._names.items() if stored not in self._parameters]
        if made:
            raise ValueError(
                f"{', '.join(made)} of the Control is made of others by a hook, which a finer Control would not have;"
                f" call torch.nn.utils.prune.remove(control, {self._names[made[0]]!r}) (or what takes your hook away) first"
            )
        with torch.no_grad():
            finer = {
                name: self._sampled(value, factor * self.knots).clone()
                for name, value in self.values().items()
            }
        values = {
            name: nn.Parameter(finer[name], value.requires_grad)
            for name, value in self.values().items()
        }
        return Control(values, self.interpolation, factor * self.knots).train(self.training)

    def _sampled(self, value: Tensor, depth: int) -> Tensor:
        """Integer arithmetic keeps the knots exact."""
        if depth == self.knots:
            return value
        if self.knots == 1:
            return value.expand(depth, *value.shape[1:])
        numerators = torch.arange(depth, device=value.device) * self.knots
        left = torch.div(numerators, depth, rounding_mode="floor")
        lower = value.index_select(0, left)
        if self.interpolation == "constant":
            return lower
        right = (left + 1).clamp(max=self.knots - 1)
        share = ((numerators % depth).to(value.dtype) / depth).reshape(-1, *(1,) * (value.ndim - 1))
        return lower + share * (value.index_select(0, right) - lower)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Control:
        """As of any module, without the memory format of images: the first axis of a control is no batch."""

        def converted(value: Tensor) -> Tensor:
            try:
                return fn(value)
            except RuntimeError as error:
                if _NO_IMAGE not in str(error):
                    raise
            like = fn(value.new_empty((0,)))  # of one axis, which has no such format
            return value.to(device=like.device, dtype=like.dtype)

        return super()._apply(converted, recurse)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return f"knots={self.knots}, interpolation={self.interpolation}"


def drawn(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """N(0, 1) on the default device: a generator draws on its own, so its numbers are the same on every device."""
    if generator is None:
        return torch.randn(shape)
    values = torch.randn(shape, generator=generator, device=generator.device)
    return values.to(torch.get_default_device())
