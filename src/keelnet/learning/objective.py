"""The objective: a loss and regularisers, term by term, never only their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from keelnet.dynamics.controls import Control
from keelnet.learning.losses import CrossEntropy, Loss
from keelnet.learning.quadratics import Quadratic
from keelnet.networks.network import AnyClassifier, SpatialClassifier, blocks_of, classifier_of

OF_PARAMETERS = "the values of a control are wanted as parameters, but one is made of others"


@dataclass(frozen=True)
class Objective:
    """loss(logits, labels) + α · ½/h Σ ‖θ_{j+1} − θ_j‖² + β · ½ h Σ ‖θ_j‖² + β_W · ½ ‖W‖² + α_W · ½ ‖∇W‖².

    The sums run over the knots of every block's control, h = T / knots, so that both values
    converge when knots are refined (with h in the place of 1/h the first would depend on the mesh).
    ‖W‖² and ‖∇W‖² are means over the points of a `SpatialClassifier`, whose W is an image a channel
    and class on the unit cube; of any other classifier ‖W‖² is the sum of squares. The classifier's
    shift v is free.

    smoothness α, tikhonov β, classifier_tikhonov β_W, classifier_smoothness α_W, each ≥ 0. ``loss``
    is a value of `losses`, or any function of logits and labels. Raises ValueError for weights below
    0 and, where it is used, for weights of a classifier that the network lacks.
    """

    loss: Loss = field(default_factory=CrossEntropy)
    smoothness: float = 0.0
    tikhonov: float = 0.0
    classifier_tikhonov: float = 0.0
    classifier_smoothness: float = 0.0

    def __post_init__(self) -> None:
        for name in ("smoothness", "tikhonov", "classifier_tikhonov", "classifier_smoothness"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")

    def terms(self, network: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every term that has weight, by name; the total is their sum."""
        return {"loss": self.loss(logits, labels), **self.regularisers(network)}

    def regularisers(self, network: nn.Module) -> dict[str, Tensor]:
        """Every term but the loss."""
        terms = {}
        blocks = [block for block in blocks_of(network) if block.control.values()]
        if self.smoothness and blocks:
            values = [time_smoothness(block.control, block.final_time) for block in blocks]
            terms["smoothness"] = self.smoothness * torch.stack(values).sum()
        if self.tikhonov and blocks:
            values = [tikhonov(block.control, block.final_time) for block in blocks]
            terms["tikhonov"] = self.tikhonov * torch.stack(values).sum()
        if self.classifier_tikhonov:
            square = classifier_tikhonov(classifier_of(network))
            terms["classifier_tikhonov"] = self.classifier_tikhonov * square
        if self.classifier_smoothness:
            square = spatial_smoothness(classifier_of(network))
            terms["classifier_smoothness"] = self.classifier_smoothness * square
        return terms

    def quadratics(self, network: nn.Module) -> dict[Tensor, Quadratic]:
        """The regularisers as operators A on each parameter that has one: their sum is Σ ½ ⟨θ, A θ⟩."""
        operators: dict[Tensor, Quadratic] = {}
        for block in blocks_of(network):
            h = block.final_time / block.control.knots
            for value in block.control.values().values():
                if (self.tikhonov or self.smoothness) and not isinstance(value, nn.Parameter):
                    raise ValueError(f"{OF_PARAMETERS}; use descend, or no tikhonov and smoothness")
                shift, weight, mass = self.tikhonov * h, self.smoothness / h, h
                if (
                    other := operators.get(value)
                ) is not None:  # of a block that shares the control
                    shift, mass = shift + other.shift, mass + other.mass
                    weight += other.stiffness[0][1]
                operators[value] = Quadratic(shift, ((0, weight),), mass)
        if self.classifier_tikhonov or self.classifier_smoothness:
            classifier = classifier_of(network)
            operators[classifier.linear.weight] = self.classifier_quadratic(classifier)
        return operators

    def classifier_quadratic(self, classifier: AnyClassifier) -> Quadratic:
        """The operator of the terms of W."""
        if not isinstance(classifier, SpatialClassifier):
            _require_image(classifier, self.classifier_smoothness)
            return Quadratic(self.classifier_tikhonov)
        points = math.prod(classifier.space)
        stiffness = tuple(
            (axis, self.classifier_smoothness * size**2 / points)
            for axis, size in enumerate(classifier.space, start=1)
        )
        shift = self.classifier_tikhonov / points
        return Quadratic(shift, stiffness, 1 / points, classifier.image_shape)


def time_smoothness(control: Control, final_time: float) -> Tensor:
    """½/h Σ_j ‖θ_{j+1} − θ_j‖² on the knots, h = T / knots: the discrete ½ ∫ ‖θ'‖² dt."""
    h = final_time / control.knots
    squares = [_squared(value.diff(dim=0)) for value in control.values().values()]
    return torch.stack(squares or [torch.zeros(())]).sum() / (2 * h)


def tikhonov(control: Control, final_time: float) -> Tensor:
    """½ h Σ_j ‖θ_j‖² on the knots: the discrete ½ ∫ ‖θ‖² dt."""
    h = final_time / control.knots
    squares = [_squared(value) for value in control.values().values()]
    return torch.stack(squares or [torch.zeros(())]).sum() * (h / 2)


def _squared(value: Tensor) -> Tensor:
    """‖value‖², a real number of a complex value too."""
    return (value * value.conj()).real.sum() if value.is_complex() else value.square().sum()


def classifier_tikhonov(classifier: AnyClassifier) -> Tensor:
    """½ ‖W‖²; of a SpatialClassifier the mean over points, the discrete ½ ∫ ‖W‖² dx."""
    points = math.prod(classifier.space) if isinstance(classifier, SpatialClassifier) else 1
    return classifier.linear.weight.square().sum() / (2 * points)


def spatial_smoothness(classifier: AnyClassifier) -> Tensor:
    """½ ‖∇W‖², the discrete ½ ∫ ‖∇W‖² dx on the unit cube, summed over channels and classes.

    Raises ValueError for a classifier whose W is no image.
    """
    if not isinstance(classifier, SpatialClassifier):
        _require_image(classifier, 1.0)
        raise AssertionError
    image = classifier.linear.weight.reshape(classifier.image_shape)
    squares = [
        image.diff(dim=axis).square().sum() * size**2
        for axis, size in enumerate(classifier.space, start=1)
    ]
    return torch.stack(squares).sum() / (2 * math.prod(classifier.space))


def _require_image(classifier: nn.Module, weight: float) -> None:
    if weight:
        raise ValueError(
            f"classifier_smoothness needs a weight that is an image; {type(classifier).__name__} has one"
            " weight a channel for all points: use SpatialClassifier, or classifier_tikhonov"
        )
