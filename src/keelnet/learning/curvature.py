"""Curvature: the objective at one point, its gradient and its Gauss–Newton products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from keelnet.learning.breakdown import BreakdownError
from keelnet.learning.losses import require_convex, require_labels
from keelnet.learning.objective import Objective
from keelnet.learning.tangents import Forward, Tangent
from keelnet.learning.unknowns import Unknowns
from keelnet.propagation.effects import Generators, alike, draws
from keelnet.propagation.integrators import State


class Curvature:
    """The objective on (x, labels) at the parameters that the network holds.

    terms: its terms by name; value: their sum; gradient: in the unknowns. ``of_the_loss`` is v ↦ Jᵀ B J v, with
    J = d logits / dθ and B the Hessian of the loss in the logits: symmetric and positive (that of the regularisers is
    `Unknowns.curved`). J v is taken by ``tangent``, Jᵀ w by back-propagation under the strategy of each block (by
    `Stored`, both of the matrix). samples: how many, the first ones, the products see (None: all).

    The parameters must not change while products are asked for. Raises ValueError for a loss that is
    not convex, labels that torch's cross_entropy would ignore, a network that gives another value each time, and
    an objective that is not finite (`BreakdownError`).
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        unknowns: Unknowns,
        x: Tensor,
        labels: Tensor,
        tangent: Tangent | None = None,
        samples: int | None = None,
    ) -> None:
        self.loss, self.unknowns = require_convex(objective.loss), unknowns
        before = Generators.of(x.device)
        logits = network(x)
        _require_same_again(network, x, logits, before)
        if objective.loss is not self.loss and not labels.is_floating_point():
            require_labels(
                logits, labels
            )  # torch's ignores some, of which the curvature knows nothing
        terms = objective.terms(network, logits, labels)
        total = torch.stack([*terms.values()]).sum()
        self.terms = {name: float(term.detach()) for name, term in terms.items()}
        self.value = float(total.detach())
        if not bool(total.detach().isfinite()):
            raise BreakdownError(
                f"the objective is {self.value}; clean x of NaN and inf, or use a stable architecture"
            )
        self.gradient = unknowns.flat(self._grad(total))
        whole = samples is None or samples >= len(x)
        part = x if whole else x[:samples]
        self._logits = logits if whole else network(part)
        self._linear = (tangent or Forward()).at(network, unknowns, part)

    def of_the_loss(self, v: Tensor) -> Tensor:
        """Jᵀ B J v."""
        bent = self.loss.curvature(self._logits.detach(), self._linear.push(v))
        if self._linear.pull is not None:
            return self._linear.pull(bent)
        return self.unknowns.flat(self._grad(self._logits, bent))

    def _grad(self, value: Tensor, costate: Tensor | None = None) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            value, self.unknowns.parameters, costate, retain_graph=True, allow_unused=True
        )


def _require_same_again(network: nn.Module, x: Tensor, logits: Tensor, before: Generators) -> None:
    """Raise ValueError for a network whose second value is another one, or that draws numbers of torch."""

    def again() -> State:
        return (network(x),)

    if before.same_torch(Generators.of(x.device)):
        with torch.no_grad():
            same = alike((logits,), again())
    else:  # another thread may have drawn
        same = not draws(again, (logits,), x.device)
    if not same:
        raise ValueError(
            f"{type(network).__name__} gives another value each time (it draws random numbers, by dropout say, or counts"
            " its calls?), so that its products are those of another map; switch that off (dropout: by .eval()), or use descend"
        )
