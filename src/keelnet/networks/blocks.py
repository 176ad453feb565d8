"""Blocks: N layers of one method on one field, with the control that owns their parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from keelnet.dynamics.controls import Control, Interpolation
from keelnet.dynamics.copies import copied
from keelnet.dynamics.fields import Dynamics
from keelnet.dynamics.holders import Holder, Own
from keelnet.dynamics.kernels import require_count
from keelnet.propagation.checks import positive_from, require_types
from keelnet.propagation.gradients import Strategy, require_strategy, store_all
from keelnet.propagation.integrators import Integrator
from keelnet.propagation.propagate import run


class Block(nn.Module):
    """y(0) ↦ y(T): ``depth`` layers with step size h = final_time / depth.

    control: θ(t) on its own knots; Control.random(field, depth) when None. The field's rules for
    channels hold: a partitioned field given all its channels returns all of them. What field and method hold beside the
    control (of a ModuleField a copy of its module; damping or a diffusion that is an nn.Parameter) is the block's.
    ``checked`` False leaves out the looks at the numbers, which torch.export cannot take.

    Raises ValueError for what is no method, field, Control or strategy, a field that the integrator cannot move, a
    strategy that the pair cannot honour, depth < 1 and final_time ≤ 0.
    """

    def __init__(
        self,
        integrator: Integrator,
        field: Dynamics,
        depth: int,
        final_time: float = 1.0,
        control: Control | None = None,
        strategy: Strategy = store_all,
    ) -> None:
        super().__init__()
        require_types(integrator, field, {})
        require_count("depth", depth)
        final_time = positive_from("final_time", final_time)
        if control is not None and not isinstance(control, Control):
            raise ValueError(
                f"control must be a kn.Control, got {type(control).__name__}; of tensors by name, knots first, one is"
                " made by kn.Control(values)"
            )
        require_strategy(strategy, integrator, integrator.adapted(field))
        self.strategy = strategy
        self.depth, self.final_time = depth, final_time
        self.control = Control.random(field, depth) if control is None else control
        self.checked = True
        self._take("integrator", integrator)
        self._take("_field", field.owned(self.control.values().keys()))

    @property
    def integrator(self) -> Integrator:
        """The method, with what it holds of now: torch.func.functional_call puts tensors in parameters' places."""
        return self._now(self._given("integrator"))

    @integrator.setter
    def integrator(self, integrator: Integrator) -> None:
        require_types(integrator, self.field, {})
        self._take("integrator", integrator)

    @property
    def field(self) -> Dynamics:
        """The field, with what it holds of now."""
        return self._now(self._given("_field"))

    @field.setter
    def field(self, field: Dynamics) -> None:
        require_types(self.integrator, field, {})
        require_strategy(self.strategy, self.integrator, self.integrator.adapted(field))
        self._take("_field", field.owned(self.control.values().keys()))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("integrator", "field"):  # torch would register a module past the property
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _given(self, place: str) -> Any:
        """Method or field as it was taken; None before. One that is a module itself is registered by its place."""
        return vars(self).get(place, self._modules.get(place))

    def _now(self, holder: Own) -> Own:
        held = holder.held()
        now = {name: getattr(self, name) for name in held}
        changed = {name: part for name, part in now.items() if part is not held[name]}
        return holder.holding(changed) if changed else holder

    def _take(self, place: str, holder: Holder) -> None:
        """What the holder holds takes the place of what the one before it held."""
        earlier = self._given(place)
        before, held = {} if earlier is None else earlier.held(), holder.held()
        for name in held:
            if hasattr(self, name) and name not in before:
                raise ValueError(
                    f"{type(holder).__name__} holds {name!r}, which a Block calls something else"
                )
        places: dict[str, Any] = self._modules if isinstance(holder, nn.Module) else vars(self)
        self._modules.pop(place, None)
        vars(self).pop(place, None)
        places[place] = holder
        for name, part in held.items():
            setattr(self, name, part)
        for name in before.keys() - held.keys():
            delattr(self, name)
        self._advised = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = {name: value for name, value in state.items() if name != "field"}
        super().__setstate__(own)  # type: ignore[no-untyped-call]
        # Files of early versions: the block held nothing of its field, nor of its method.
        if "field" in state:
            self._take("_field", state["field"].owned(self.control.values().keys()))
        for name, part in self._given("integrator").held().items():
            if not hasattr(self, name):
                setattr(self, name, part)

    @property
    def step_size(self) -> float:
        """h = T / N."""
        return self.final_time / self.depth

    def forward(self, y: Tensor) -> Tensor:
        # Advice on damping costs norms of every layer, so it is given once.
        advise, self._advised = not self._advised, True
        return self.propagated(y, self.strategy, advise)

    def propagated(self, y: Tensor, strategy: Strategy, advise: bool = False) -> Tensor:
        """y(T) under another strategy than the block's own: the same value, other memory."""
        return run(
            self.integrator,
            self.field,
            y,
            self.control(self.depth),
            self.step_size,
            strategy,
            depth=self.depth,
            checked=self.checked,
            advise=advise and self.checked,
        )

    def refined(self, factor: int = 2, tied: bool = False) -> Block:
        """The same θ(t) and T on ``factor`` times as many layers, every part in its mode.

        What field and method hold beside the control is copied; ``tied``: it is the very same, to stand in this block's
        place.
        """
        control = self.control.refined(factor)
        same: list[object] = [self.strategy]
        for holder in (self._given("integrator"), self._given("_field")):
            if tied or not holder.held():
                same += [holder, *(getattr(self, name) for name in holder.held())]
        finer = copied(self, {id(each): each for each in same} | {id(self.control): control})
        finer.depth, finer._advised = factor * self.depth, False
        return finer

    def extra_repr(self) -> str:
        return f"{self.integrator}, depth={self.depth}, final_time={self.final_time:g}"


def random_block(
    integrator: Integrator,
    field: Dynamics,
    depth: int,
    final_time: float,
    strategy: Strategy,
    generator: torch.Generator | None,
    knots: int | None = None,
    interpolation: Interpolation = "linear",
    gain: float = 1.0,
) -> Block:
    """A block whose control is drawn from a generator, on ``knots`` knots (as many as layers by default)."""
    require_count("depth", depth)
    control = Control.random(
        field, depth if knots is None else knots, generator, interpolation, gain
    )
    return Block(integrator, field, depth, final_time, control, strategy)
