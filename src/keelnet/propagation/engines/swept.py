"""What the engines that sweep over arrays share: the strategies, and the gradients in the end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from keelnet.propagation.engines import pool
from keelnet.propagation.engines.effective import own_gradients
from keelnet.propagation.engines.execution import Engine, Gradients
from keelnet.propagation.engines.sweep import Arrays, Record, Sweep, stretches
from keelnet.propagation.gradients import checkpointed, reversible
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem


class Swept(Engine):
    """A fused engine on arrays (rows, channels)."""

    @abstractmethod
    def arrays(self, state: State) -> Arrays:
        """Each part as (rows, channels), contiguous; the part's own memory where its layout allows."""

    @abstractmethod
    def parts(self, arrays: Arrays, like: State) -> State:
        """Back to the shapes of the state."""

    @abstractmethod
    def sweep(self, problem: Problem) -> Sweep:
        """The loop over layers on this problem's weights."""

    def forward(self, problem: Problem, remembers: bool) -> tuple[State, tuple[Tensor, ...]]:
        sweep, arrays = self.sweep(problem), self.arrays(problem.state)
        if remembers and problem.strategy not in (reversible, checkpointed):
            last, record = sweep.recorded(arrays, range(problem.depth))
            kept = [*record.moved, *record.kept, *record.before]
            # An output of its own: a view would keep the whole record alive.
            final = self.parts([part.clone() for part in last], problem.state)
            return final, tuple(x for x in kept if x is not None)
        return self.parts(sweep.last(arrays, range(problem.depth)), problem.state), ()

    def path(self, problem: Problem, layers: Sequence[int]) -> list[State]:
        sweep, arrays = self.sweep(problem), self.arrays(problem.state)
        states, done = [], 0
        for layer in layers:
            arrays = sweep.last(arrays, range(done, layer))
            states.append(self.parts(arrays, problem.state))
            done = layer
        return states

    def backward(
        self,
        problem: Problem,
        final: State,
        kept: tuple[Tensor, ...],
        costate: tuple[Tensor, ...],
        wanted: tuple[bool, ...],
    ) -> Gradients:
        sweep, arrays = self.sweep(problem), self.arrays(problem.state)
        sweep.sums = _sums(problem, wanted)
        pulled = [array.clone() for array in self.arrays(costate)]
        if problem.strategy is reversible:
            pulled = sweep.undone([array.clone() for array in arrays], pulled)
        elif problem.strategy is checkpointed:
            pulled = _by_stretches(sweep, arrays, pulled)
        else:
            pulled = sweep.pulled(arrays, _record(sweep, kept), pulled)
        return (*self.parts(pulled, problem.state), *_of_controls(problem, sweep.sums, wanted))


def _by_stretches(sweep: Sweep, arrays: Arrays, costate: Arrays) -> Arrays:
    """Stretch after stretch from the end, each run forward again from its remembered begin."""
    begins = []
    for layers in stretches(sweep.problem.depth):
        begins.append((layers, arrays))
        arrays = sweep.last(arrays, layers)
    for layers, begin in reversed(begins):
        costate = sweep.pulled(begin, sweep.recorded(begin, layers)[1], costate)
    return costate


def _record(sweep: Sweep, kept: tuple[Tensor, ...]) -> Record:
    """The record from what autograd saved, in the order in which it was given."""
    saved = iter(kept)
    forms = [move.form for move in sweep.moves(0)]
    moved = [next(saved) for _ in forms]
    values = [None if form is None else next(saved) for form in forms]
    before = [next(saved) if form is not None and form.norm is not None else None for form in forms]
    return Record(range(sweep.problem.depth), moved, values, before)


def _sums(problem: Problem, wanted: tuple[bool, ...]) -> dict[str, Tensor]:
    """A place for the gradient of each control that wants one; weights' need no zeros."""
    controls = list(problem.controls.items())
    asks = dict(zip(problem.controls, wanted[len(problem.state) :], strict=False))
    if isinstance(problem.damping, Tensor) and wanted[-1]:
        asks["weight"] = True
    return {
        name: (pool.empty if name.startswith("weight") else pool.zeros)(
            tuple(value.shape), value.dtype
        )
        for name, value in controls
        if asks[name]
    }


def _of_controls(
    problem: Problem, sums: dict[str, Tensor], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the controls, then the damping's."""
    grads = {name: sums.get(name) for name in problem.controls}
    damping = None
    if problem.damping is not None and sums.get("weight") is not None:
        assert problem.moves is not None
        form = problem.moves[0][0].form
        assert form is not None
        grads["weight"], damping = own_gradients(form, sums["weight"])
    asks = wanted[len(problem.state) :]
    result = [g if asks[at] else None for at, g in enumerate(grads.values())]
    if isinstance(problem.damping, Tensor):
        result.append(damping if wanted[-1] else None)
    return tuple(result)
