"""Engines: ways to carry out a propagation. The same value and gradient, within rounding, in other time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from keelnet.propagation.gradients import once, require_strategy, reversible
from keelnet.propagation.integrators import State
from keelnet.propagation.problem import Problem

NO_MOVES = "a layer is not a sequence of moves"

Gradients = tuple[Tensor | None, ...]


class Engine(ABC):
    """A fused execution of the propagations that it can take.

    ``forward`` and ``backward`` see plain tensors without a graph.
    """

    name: ClassVar[str]

    @abstractmethod
    def obstacle(self, problem: Problem) -> str | None:
        """Why this engine cannot take the propagation; None if it can."""

    @abstractmethod
    def reason(self, problem: Problem) -> str:
        """Why it is the right one."""

    @abstractmethod
    def forward(self, problem: Problem, remembers: bool) -> tuple[State, tuple[Tensor, ...]]:
        """The last state, and (if the gradient is to come) what it needs beyond both ends."""

    @abstractmethod
    def backward(
        self,
        problem: Problem,
        final: State,
        kept: tuple[Tensor, ...],
        costate: tuple[Tensor, ...],
        wanted: tuple[bool, ...],
    ) -> Gradients:
        """Gradients of ``problem.tensors``, None where not wanted.

        Under kn.reversible ``final`` is the last state and the problem's own state is not to be
        read; under the other strategies the problem's state is the first one and ``final`` is empty.
        """

    @abstractmethod
    def path(self, problem: Problem, layers: Sequence[int]) -> list[State]:
        """The states after these layers, counted from 1, in rising order; without a graph."""

    def run(self, problem: Problem) -> State:
        """The last state, differentiable."""
        require_strategy(problem.strategy, problem.integrator, problem.field)
        tensors = problem.tensors
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            state: State = _Fused.apply(self, problem, *tensors)  # type: ignore[no-untyped-call]
            return state
        return self.forward(problem, remembers=False)[0]


class _Fused(torch.autograd.Function):
    """An engine's forward and backward pass as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, engine: Engine, problem: Problem, *tensors: Tensor) -> State:  # type: ignore[override]
        plain = problem.on(tensors)
        final, kept = engine.forward(plain, remembers=True)
        # Cut off from what they are views of: torch lets no view made in here be changed in place.
        final = tuple(part.data for part in final)
        ctx.engine, ctx.parts = engine, len(problem.state)
        # The tensors themselves are saved by autograd alone, so that it can free them.
        empty = tuple(x.new_empty(()) for x in tensors)
        ctx.problem = problem.on(empty)
        ends = final if problem.strategy is reversible else tensors[: ctx.parts]
        ctx.save_for_backward(*ends, *tensors[ctx.parts :], *kept)
        return final

    @staticmethod
    def backward(ctx: Any, *costate: Tensor) -> tuple[Any, ...]:
        watched = transformed(costate)
        if watched and ctx.problem.strategy is reversible:
            raise RuntimeError(
                f"{watched} cannot be taken through a reversible pass; use strategy=kn.store_all"
            )
        if watched or (torch.is_grad_enabled() and ctx.problem.strategy is not reversible):
            problem, _, _ = _saved(ctx, ctx.saved_tensors)
            return None, None, *_again(problem, costate, ctx.needs_input_grad[2:])
        saved = ctx.saved_tensors  # once: within torch's checkpoint they are there one time only
        with torch.no_grad():
            found = _pulled(ctx, saved, costate)
        return once(found, (*saved, *costate))


def _pulled(ctx: Any, saved: tuple[Tensor, ...], costate: State) -> tuple[Any, ...]:
    """The engine's gradient, which has no graph of its own."""
    problem, final, kept = _saved(ctx, saved)
    wanted = ctx.needs_input_grad[2:]
    costate = tuple(part.resolve_neg() for part in costate)
    with torch.autocast(costate[0].device.type, enabled=False):  # sums are not to be rounded
        return None, None, *ctx.engine.backward(problem, final, kept, costate, wanted)


def transformed(costate: tuple[Tensor, ...]) -> str:
    """What torch does with a gradient that only operations of torch can follow; empty if nothing."""
    functorch = torch._C._functorch
    if any(
        functorch.is_functorch_wrapped_tensor(x) or functorch.is_legacy_batchedtensor(x)
        for x in costate
    ):
        return "a batch of gradients at once"
    if any(torch.autograd.forward_ad.unpack_dual(x).tangent is not None for x in costate):  # type: ignore[no-untyped-call]
        return "a forward derivative of the gradient"
    return ""


def _saved(ctx: Any, saved: tuple[Tensor, ...]) -> tuple[Problem, State, tuple[Tensor, ...]]:
    """The problem on the tensors that autograd kept, the last state where it is the one kept, the rest."""
    count = len(ctx.needs_input_grad) - 2
    ends, rest, kept = saved[: ctx.parts], saved[ctx.parts : count], saved[count:]
    problem = ctx.problem.on((*ends, *rest))
    return problem, ends if problem.strategy is reversible else (), kept


def _again(problem: Problem, costate: tuple[Tensor, ...], wanted: tuple[bool, ...]) -> Gradients:
    """The gradient by the reference, with a graph of its own: for derivatives of derivatives."""
    with torch.enable_grad():
        # Views, so that the gradient ends here and not at what the inputs were made from.
        tensors = tuple(x.view_as(x) for x in problem.tensors)
        final = problem.on(tensors).reference()
        needed = [x for x, wants in zip(tensors, wanted, strict=True) if wants]
        ends = [(x, g) for x, g in zip(final, costate, strict=True) if x.requires_grad]
        grads = iter(
            torch.autograd.grad(
                [x for x, _ in ends],
                needed,
                [g for _, g in ends],
                create_graph=True,
                allow_unused=True,
            )
        )
    return tuple(next(grads) if wants else None for wants in wanted)
