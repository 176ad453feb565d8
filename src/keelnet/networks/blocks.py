"""Blocks: N layers of one method on one field, with the control that owns their parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from keelnet.dynamics.controls import Control, Interpolation
from keelnet.dynamics.copies import copied
from keelnet.dynamics.fields import Dynamics
from keelnet.dynamics.kernels import require_count
from keelnet.propagation.gradients import Strategy, require_strategy, store_all
from keelnet.propagation.integrators import Integrator
from keelnet.propagation.propagate import run


class Block(nn.Module):
    """y(0) ↦ y(T): ``depth`` layers with step size h = final_time / depth.

    control: θ(t) on its own knots; Control.random(field, depth) when None. The field's rules for
    channels hold: a partitioned field given all its channels returns all of them. What the field holds beside the
    control (of a ModuleField a copy of its module, damping that is an nn.Parameter) is the block's. ``checked`` False
    leaves out the looks at the numbers, which torch.func.vmap cannot take.

    Raises ValueError for a field that the integrator cannot move, a strategy that the pair cannot
    honour, depth < 1 and final_time ≤ 0.
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
        require_count("depth", depth)
        if not isinstance(final_time, (int, float)) or not 0 < final_time < math.inf:
            raise ValueError(f"final_time must be a finite number above 0, got {final_time!r}")
        require_strategy(strategy, integrator, integrator.adapted(field))
        self.integrator, self.strategy = integrator, strategy
        self.depth, self.final_time = depth, float(final_time)
        self.control = Control.random(field, depth) if control is None else control
        self.checked = True
        self._take(field)

    @property
    def field(self) -> Dynamics:
        """The field, with what it holds of now: torch.func.functional_call puts tensors in parameters' places."""
        held = self._field.held()
        now = {name: getattr(self, name) for name in held}
        changed = {name: part for name, part in now.items() if part is not held[name]}
        return self._field.holding(changed) if changed else self._field

    @field.setter
    def field(self, field: Dynamics) -> None:
        require_strategy(self.strategy, self.integrator, self.integrator.adapted(field))
        before = self._field
        self._take(field)
        for name in before.held().keys() - self._field.held().keys():
            delattr(self, name)

    def _take(self, field: Dynamics) -> None:
        own = field.owned(self.control.values().keys())
        earlier: Dynamics | None = vars(self).get("_field")
        before = {} if earlier is None else earlier.held()
        for name in own.held():
            if hasattr(self, name) and name not in before:
                raise ValueError(
                    f"{type(field).__name__} holds {name!r}, which a Block calls something else"
                )
        self._field: Dynamics = own
        for name, part in self._field.held().items():
            setattr(self, name, part)
        self._advised = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = {name: value for name, value in state.items() if name != "field"}
        super().__setstate__(own)  # type: ignore[no-untyped-call]
        if "field" in state:  # files of early versions: the block held nothing of it
            self._take(state["field"])

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
            self.control.at_layers(self.depth),
            self.step_size,
            strategy,
            depth=self.depth,
            checked=self.checked,
            advise=advise,
        )

    def refined(self, factor: int = 2, tied: bool = False) -> Block:
        """The same θ(t) and T on ``factor`` times as many layers, every part in its mode.

        What the field holds beside the control is copied; ``tied``: it is the very same, to stand in this block's place.
        """
        control = self.control.refined(factor).train(self.control.training)
        for before, after in zip(self.control.parameters(), control.parameters(), strict=True):
            after.requires_grad_(before.requires_grad)
        same: list[object] = [self.integrator, self.strategy]
        if tied or not self._field.held():
            same += [self._field, *(getattr(self, name) for name in self._field.held())]
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
