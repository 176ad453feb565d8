"""What the engines that sweep over arrays share: the strategies, and the gradients in the end."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from keelnet.propagation.engines.effective import own_gradients
from keelnet.propagation.engines.execution import Engine, Gradients
from keelnet.propagation.engines.loop import Arrays, Loop
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
    def loop(self, problem: Problem) -> Loop:
        """The loop over layers on this problem's weights."""

    def forward(self, problem: Problem, remembers: bool) -> tuple[State, tuple[Tensor, ...]]:
        loop, arrays = self.loop(problem), self.arrays(problem.state)
        if remembers and problem.strategy not in (reversible, checkpointed):
            last, record = loop.recorded(arrays, range(problem.depth))
            # An output of its own: a view would keep the whole record alive.
            final = self.parts([part.clone() for part in last], problem.state)
            return final, loop.saved(record)
        if remembers and problem.strategy is checkpointed:
            begins = _begins(loop, arrays)
            end = loop.last(begins[-1][1], begins[-1][0])
            return self.parts(end, problem.state), tuple(x for _, b in begins[1:] for x in b)
        return self.parts(loop.last(arrays, range(problem.depth)), problem.state), ()

    def path(self, problem: Problem, layers: Sequence[int]) -> list[State]:
        loop, arrays = self.loop(problem), self.arrays(problem.state)
        states, done = [], 0
        for layer in layers:
            arrays = loop.last(arrays, range(done, layer))
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
        loop, arrays = self.loop(problem), self.arrays(problem.state)
        loop.want(_summed(problem, wanted))
        pulled = [array.clone() for array in self.arrays(costate)]
        if problem.strategy is reversible:
            pulled = loop.undone([array.clone() for array in arrays], pulled)
        elif problem.strategy is checkpointed:
            pulled = _by_stretches(loop, arrays, tuple(x.contiguous() for x in kept), pulled)
        else:
            pulled = loop.pulled(
                arrays,
                loop.restored(tuple(x.contiguous() for x in kept)),
                range(problem.depth),
                pulled,
            )
        return (*self.parts(pulled, problem.state), *_of_controls(problem, loop.totals(), wanted))


def _begins(loop: Loop, arrays: Arrays) -> list[tuple[range, Arrays]]:
    """Each stretch of layers with the state before it."""
    begins: list[tuple[range, Arrays]] = []
    for layers in stretches(loop.problem.depth):
        if begins:
            arrays = loop.last(arrays, begins[-1][0])
        begins.append((layers, arrays))
    return begins


def _by_stretches(loop: Loop, arrays: Arrays, kept: tuple[Tensor, ...], costate: Arrays) -> Arrays:
    """Stretch after stretch from the end, each run forward again from its remembered begin."""
    parts = len(arrays)
    begins = [arrays, *(list(kept[at : at + parts]) for at in range(0, len(kept), parts))]
    for layers, begin in reversed(list(zip(stretches(loop.problem.depth), begins, strict=True))):
        costate = loop.pulled(begin, loop.recorded(begin, layers)[1], layers, costate)
    return costate


def _summed(problem: Problem, wanted: tuple[bool, ...]) -> frozenset[str]:
    """The controls whose gradients are to be summed: γ's follows from that of the weight."""
    asks = dict(zip(problem.controls, wanted[len(problem.state) :], strict=False))
    if isinstance(problem.damping, Tensor) and wanted[-1]:
        asks["weight"] = True
    return frozenset(name for name, asked in asks.items() if asked)


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


def stretches(depth: int) -> list[range]:
    """√depth stretches of layers, the last one perhaps shorter."""
    length = math.isqrt(depth - 1) + 1
    return [range(begin, min(begin + length, depth)) for begin in range(0, depth, length)]
