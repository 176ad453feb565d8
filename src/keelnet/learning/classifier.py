"""The classifier: its convex problem for fixed features, solved by Newton's method with conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keelnet.dynamics.kernels import require_count
from keelnet.learning.breakdown import BreakdownError
from keelnet.learning.losses import require_convex, require_labels
from keelnet.learning.methods import require_positive
from keelnet.learning.objective import Objective
from keelnet.learning.solvers import Armijo, EisenstatWalker, Forcing, conjugate_gradients
from keelnet.networks.network import AnyClassifier

LARGEST_GRAM = 1024  # features up to which their Gram matrix is factorised as a preconditioner


@dataclass(frozen=True)
class ClassifierNewton:
    """How to solve the classifier's problem: until its gradient is at most ``tolerance``.

    iterations: most Newton steps; products: most products of conjugate gradients in each. Raises ValueError for
    a tolerance that is not above 0 and numbers below 1.
    """

    tolerance: float = 1e-8
    iterations: int = 50
    products: int = 100
    forcing: Forcing = field(default_factory=lambda: EisenstatWalker(0.1, 1e-4))
    search: Armijo = field(default_factory=lambda: Armijo(halvings=30))

    def __post_init__(self) -> None:
        require_positive("tolerance", self.tolerance)
        require_count("iterations", self.iterations)
        require_count("products", self.products)


@dataclass(frozen=True)
class Fit:
    """What solving left: the norm of the gradient, Newton steps taken, and whether it is the minimum."""

    gradient: float
    iterations: int
    solved: bool


class ClassifierProblem:
    """min over (W, v) of loss(rows W + v, labels) + ½ β_W ‖W‖² + ½ α_W ‖∇W‖², for given features.

    The unknowns are one matrix (features + 1, classes) whose last row is v. Everything is computed in
    float64. Raises ValueError for a loss that is not convex, labels that are no classes, out of range or of one
    class, features that are not finite, and a system that is singular: features that depend on each other with β_W = 0.
    """

    def __init__(
        self, classifier: AnyClassifier, objective: Objective, y: Tensor, labels: Tensor
    ) -> None:
        self.loss = require_convex(objective.loss)
        self.operator = objective.classifier_quadratic(classifier)
        rows = classifier.read(y.detach()).flatten(0, -2).double()
        if not bool(rows.isfinite().all()):
            raise BreakdownError(
                "the features hold NaN or inf; use a smaller step or a stable network"
            )
        self.rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        if labels.is_floating_point():
            raise ValueError(
                f"a classifier is fitted to integer labels, its classes, got {labels.dtype}; use gauss_newton for real"
                " targets"
            )
        self.labels = labels.flatten().long()
        classes = classifier.linear.weight.shape[1]
        require_labels(rows.new_zeros(len(self.labels), classes), self.labels)
        if int(self.labels.min()) == int(self.labels.max()):
            raise ValueError(
                f"every label is {int(self.labels[0])} on these {len(rows)} samples: a classifier needs at"
                " least two classes; use more samples, or a larger batch_size"
            )
        self.gram = self.rows.T @ self.rows / len(self.rows) if self._small else None
        self._require_regular()

    def value(self, w: Tensor) -> float:
        """The objective of the classifier."""
        quadratic = 0.5 * (w[:-1] * self.operator.product(w[:-1])).sum()
        return float(self.loss(self.rows @ w, self.labels) + quadratic)

    def gradient(self, w: Tensor) -> Tensor:
        """Its gradient, in the shape of w."""
        with torch.enable_grad():
            logits = (self.rows @ w).detach().requires_grad_()
            (pulled,) = torch.autograd.grad(self.loss(logits, self.labels), logits)
        return self.rows.T @ pulled + self._regularised(w)

    def product(self, logits: Tensor, v: Tensor) -> Tensor:
        """Its Hessian times v, at these logits."""
        return self.rows.T @ self.loss.curvature(logits, self.rows @ v) + self._regularised(v)

    def preconditioner(self, logits: Tensor) -> Callable[[Tensor], Tensor]:
        """The inverse of steepness · Gram + regularisers; of the regularisers alone for many features."""
        steepness = max(self.loss.steepness(logits), 1e-8)
        if self.gram is None:
            return lambda r: self._by_operator(r, steepness)
        matrix = steepness * self.gram
        matrix.diagonal()[:-1] += self.operator.shift
        matrix.diagonal()[:] += 1e-12 * float(matrix.diagonal().max())
        factor = torch.linalg.cholesky(matrix)
        return lambda r: torch.cholesky_solve(r, factor)

    def _by_operator(self, r: Tensor, steepness: float) -> Tensor:
        scale = steepness * float(self.rows[:, :-1].square().mean()) / self.operator.mass
        solved = self.operator.solved(r[:-1], scale)
        return torch.cat([solved, r[-1:] / steepness])

    def _regularised(self, v: Tensor) -> Tensor:
        return torch.cat([self.operator.product(v[:-1]), torch.zeros_like(v[-1:])])

    @property
    def _small(self) -> bool:
        return self.rows.shape[1] <= LARGEST_GRAM and not any(
            weight for _, weight in self.operator.stiffness
        )

    def _require_regular(self) -> None:
        if self.operator.shift > 0:
            return
        rank = int(torch.linalg.matrix_rank(self.rows))
        if rank < self.rows.shape[1]:
            # With fewer samples than unknowns it is singular whatever the features have become.
            kind = ValueError if len(self.rows) < self.rows.shape[1] else BreakdownError
            raise kind(
                f"the classifier's system is singular: on these {len(self.rows)} samples its"
                f" {self.rows.shape[1] - 1} features and the shift span {rank} directions only;"
                " use classifier_tikhonov > 0, or more samples"
            )


def fit_classifier(
    classifier: AnyClassifier,
    objective: Objective,
    y: Tensor,
    labels: Tensor,
    settings: ClassifierNewton | None = None,
) -> Fit:
    """Put the best (W, v) for features y in place, by inexact Newton steps from the present ones.

    y as the classifier reads it, (batch, channels, *space); no gradient is left. Raises ValueError
    as `ClassifierProblem` does.
    """
    settings = settings or ClassifierNewton()
    problem = ClassifierProblem(classifier, objective, y, labels)
    linear = classifier.linear
    w = torch.cat([linear.weight.detach(), linear.bias.detach()[None]]).double()
    with torch.no_grad():
        w, fit = _minimised(problem, w, settings)
        linear.weight.copy_(w[:-1])
        linear.bias.copy_(w[-1])
    return fit


def _minimised(
    problem: ClassifierProblem, w: Tensor, settings: ClassifierNewton
) -> tuple[Tensor, Fit]:
    before: float | None = None
    tolerance: float | None = None
    for iteration in range(settings.iterations + 1):
        gradient = problem.gradient(w)
        norm = float(gradient.norm())
        if norm <= settings.tolerance or iteration == settings.iterations:
            return w, Fit(norm, iteration, norm <= settings.tolerance)
        ratio = None if before is None else norm / before
        before, tolerance = norm, settings.forcing.tolerance(ratio, tolerance)
        step = _newton_step(problem, w, gradient, tolerance, settings)
        length = _length(problem, w, step, gradient, settings.search)
        if length == 0:
            return w, Fit(norm, iteration, False)
        w = w + length * step
    raise AssertionError


def _length(
    problem: ClassifierProblem, w: Tensor, step: Tensor, gradient: Tensor, search: Armijo
) -> float:
    """By the values; where the decrease to come is within their rounding, the whole step if the gradient falls."""
    value, derivative = problem.value(w), float((gradient * step).sum())
    if -derivative > 1e-10 * abs(value):
        return search.length(value, derivative, lambda t: problem.value(w + t * step))
    return 1.0 if problem.gradient(w + step).norm() < gradient.norm() else 0.0


def _newton_step(
    problem: ClassifierProblem,
    w: Tensor,
    gradient: Tensor,
    tolerance: float,
    settings: ClassifierNewton,
) -> Tensor:
    logits = problem.rows @ w
    solution = conjugate_gradients(
        lambda v: problem.product(logits, v),
        -gradient,
        problem.preconditioner(logits),
        tolerance,
        settings.products,
    )
    return solution.x if bool(solution.x.any()) else -gradient
