"""Evaluations: what the objective of the unknowns is: as the parameters stand, or at the best classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from keelnet.learning.breakdown import BreakdownError
from keelnet.learning.classifier import ClassifierNewton, Fit, fit_classifier
from keelnet.learning.objective import Objective
from keelnet.networks.network import AnyClassifier, Network, classifier_of


@dataclass(frozen=True)
class Evaluation(ABC):
    """The objective on given samples as a function of the parameters in place."""

    network: nn.Module
    objective: Objective

    @abstractmethod
    def settle(self, x: Tensor, labels: Tensor) -> None:
        """Put in place what is eliminated; raises ValueError where there is no best."""

    @abstractmethod
    def terms(self, x: Tensor, labels: Tensor) -> dict[str, float]:
        """The terms by name after settling; empty where features overflow or nothing can settle."""


@dataclass(frozen=True)
class Plain(Evaluation):
    """Nothing is eliminated."""

    def settle(self, x: Tensor, labels: Tensor) -> None:
        return

    def terms(self, x: Tensor, labels: Tensor) -> dict[str, float]:
        with torch.no_grad():
            logits = _evaluated(self.network, x)
            return {} if logits is None else _numbers(self, logits, labels)


@dataclass(frozen=True)
class Reduced(Evaluation):
    """φ(θ) = min over (W, v) of the objective: the best classifier is put in place first.

    By the envelope theorem the gradient of φ is that of the objective in θ at the best (W, v), held fixed.
    Raises ValueError where the classifier's problem is singular or has no minimum.
    """

    newton: ClassifierNewton = field(default_factory=ClassifierNewton)

    def settle(self, x: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            fit = self._fit(self._network.features(x), labels)
        if not fit.solved:
            raise BreakdownError(
                f"the classifier's problem was not solved: gradient {fit.gradient:.2g} after"
                f" {fit.iterations} Newton steps; classifier_tikhonov="
                f"{self.objective.classifier_tikhonov:g} may be too small for samples that can be"
                " separated: use classifier_tikhonov=1e-4 or more"
            )

    def terms(self, x: Tensor, labels: Tensor) -> dict[str, float]:
        with torch.no_grad():
            y = _evaluated(self._network.features, x)
            if y is None or not self._solved(y, labels):
                return {}
            return _numbers(self, self._network.classifier(y), labels)

    def _solved(self, y: Tensor, labels: Tensor) -> bool:
        try:
            return self._fit(y, labels).solved
        except ValueError:  # `settle` took these samples, so it is the parameters of the trial
            return False

    def _fit(self, y: Tensor, labels: Tensor) -> Fit:
        classifier = classifier_of(self.network)
        return fit_classifier(classifier, self.objective, y, labels, self.newton)

    @property
    def _network(self) -> Network:
        return require_linear_end(self.network)


def require_linear_end(network: nn.Module) -> Network:
    """The network, or ValueError where no linear classifier on features can be eliminated."""
    if not isinstance(network, Network) or not isinstance(network.classifier, AnyClassifier):
        raise ValueError(
            f"variable projection and block descent need a Network that ends in a linear classifier,"
            f" got {type(network).__name__}; use gauss_newton"
        )
    if not all(value.requires_grad for value in network.classifier.parameters()):
        raise ValueError("the classifier is frozen, but this solver fits it; use gauss_newton")
    return network


def _evaluated(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    """The value at a trial point; None where the features overflow, which propagation refuses."""
    try:
        value: Tensor = function(x)
    except ValueError:  # x was propagated before, so it is the parameters of the trial
        return None
    return value


def _numbers(evaluation: Evaluation, logits: Tensor, labels: Tensor) -> dict[str, float]:
    terms = evaluation.objective.terms(evaluation.network, logits, labels)
    return {name: float(value) for name, value in terms.items()}
