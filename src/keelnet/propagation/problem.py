"""A propagation as one value: everything that decides how it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from keelnet.dynamics.fields import AntisymmetricField, Dynamics
from keelnet.dynamics.forms import Form, forms_of
from keelnet.propagation.integrators import Euler, Integrator, State
from keelnet.propagation.shears import Leapfrog, Midpoint, ShearIntegrator, Verlet

Controls = dict[str, Tensor]
Strategy = Callable[[Integrator, Dynamics, State, Controls, float, int], State]


class Move(NamedTuple):
    """state[to] += scale · rate(state[of]), or, without a form, += scale · state[of]."""

    to: int
    of: int
    scale: float
    form: Form | None


@dataclass(frozen=True, eq=False)
class Problem:
    """An integrator on a field from a state, under controls: ``depth`` layers of step size ``h``."""

    integrator: Integrator
    field: Dynamics
    state: State
    controls: Controls
    h: float
    depth: int
    strategy: Strategy

    def reference(self) -> State:
        """The state after all layers, by the strategy itself."""
        return self.strategy(
            self.integrator, self.field, self.state, self.controls, self.h, self.depth
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The state, the controls, and a damping that is a tensor."""
        damping = self.damping
        return (
            *self.state,
            *self.controls.values(),
            *([damping] if isinstance(damping, Tensor) else []),
        )

    def on(self, tensors: tuple[Tensor, ...]) -> Problem:
        """The same propagation of other tensors, in the order of ``tensors``."""
        parts, names = len(self.state), tuple(self.controls)
        end = parts + len(names)
        field = self.field
        if len(tensors) > end:
            assert isinstance(field, AntisymmetricField)
            field = field.with_damping(tensors[end])
        controls = dict(zip(names, tensors[parts:end], strict=True))
        return replace(self, field=field, state=tensors[:parts], controls=controls)

    @property
    def damping(self) -> float | Tensor | str | None:
        """γ of an antisymmetric field."""
        return self.field.damping if isinstance(self.field, AntisymmetricField) else None

    @cached_property
    def swaps(self) -> bool:
        """Whether the parts change places after each layer."""
        return isinstance(self.integrator, ShearIntegrator) and self.integrator.swaps

    @cached_property
    def moves(self) -> tuple[tuple[Move, ...], tuple[Move, ...]] | None:
        """Those of the first layer and those of every other; None where a layer is not made of such moves."""
        forms = forms_of(self.field)
        if forms is None:
            return None
        if type(self.integrator) is Euler and len(forms) == 1:
            alone = (Move(0, 0, self.h, forms[0]),)
            return alone, alone
        if type(self.integrator) not in (Verlet, Leapfrog, Midpoint):
            return None
        return self._shears(forms, 0), self._shears(forms, 1)

    def _shears(self, forms: tuple[Form, ...], layer: int) -> tuple[Move, ...]:
        assert isinstance(self.integrator, ShearIntegrator)
        moves = []
        for shear in self.integrator.shears(self.field, self.h, layer):
            form = None if shear.rate is None else forms[shear.moved if len(forms) > 1 else 0]
            moves.append(Move(shear.moved, 1 - shear.moved, shear.scale, form))
        return tuple(moves)
