"""A propagation as one value: everything that decides how it is carried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from keelnet.dynamics.fields import AntisymmetricField, Dynamics
from keelnet.dynamics.forms import Form, forms_of
from keelnet.propagation.gradients import Controls, Strategy
from keelnet.propagation.integrators import RK4, Euler, Integrator, State
from keelnet.propagation.shears import Leapfrog, Midpoint, ShearIntegrator, Verlet


class Move(NamedTuple):
    """state[to] += scale · rate(state[of]), or, without a form, += scale · state[of]."""

    to: int
    of: int
    scale: float
    form: Form | None


Layers = tuple[tuple[Move, ...], tuple[Move, ...]]


class Stages(NamedTuple):
    """kᵢ = f(s + ahead[i] kᵢ₋₁), every part of the state s at once; s ← s + Σᵢ weights[i] kᵢ.

    Explicit methods each of whose slopes needs only the one before: Euler and RK4. ``rates`` holds k,
    a move a part by its rate alone.
    """

    rates: tuple[Move, ...]
    ahead: tuple[float, ...]
    weights: tuple[float, ...]


# By exact type, in units of h: a subclass may have another step.
_TABLEAUS: dict[type, tuple[tuple[float, ...], tuple[float, ...]]] = {
    Euler: ((0.0,), (1.0,)),
    RK4: ((0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


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
    def moves(self) -> Layers | None:
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

    @cached_property
    def stages(self) -> Stages | None:
        """A layer that moves all parts at once, by stages; None where it is made of moves or of neither."""
        forms, tableau = forms_of(self.field), _TABLEAUS.get(type(self.integrator))
        if self.moves is not None or forms is None or tableau is None:
            return None
        last = len(forms) - 1
        rates = tuple(Move(part, last - part, 1.0, form) for part, form in enumerate(forms))
        ahead, weights = (tuple(self.h * factor for factor in row) for row in tableau)
        return Stages(rates, ahead, weights)

    @property
    def tabled(self) -> Layers:
        """The moves that compiled kernels read of a table: those of ``moves``, or the rates of every stage."""
        if self.stages is not None:
            return self.stages.rates, self.stages.rates
        assert self.moves is not None
        return self.moves

    def _shears(self, forms: tuple[Form, ...], layer: int) -> tuple[Move, ...]:
        assert isinstance(self.integrator, ShearIntegrator)
        moves = []
        for shear in self.integrator.shears(self.field, self.h, layer):
            form = None if shear.rate is None else forms[shear.moved if len(forms) > 1 else 0]
            moves.append(Move(shear.moved, 1 - shear.moved, shear.scale, form))
        return tuple(moves)
