"""Validation: what a network does on withheld samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from keelnet.data.samples import Samples
from keelnet.learning.modes import Modes

Score = Callable[[Tensor, Tensor], dict[str, float]]
Validation = Callable[[nn.Module], dict[str, float]]


def scored(
    samples: Samples, score: Score, batch_size: int, device: torch.device | None = None
) -> Validation:
    """The validation that scores the logits of the withheld samples, on the CPU; raises ValueError for none."""
    if len(samples.validation[0]) == 0:
        raise ValueError("the validation set is empty; withhold at least one sample to judge by")

    def validate(network: nn.Module) -> dict[str, float]:
        x, labels = samples.validation
        return score(predicted(network, x, batch_size, device), labels.cpu())

    return validate


def predicted(
    network: nn.Module, x: Tensor, batch_size: int, device: torch.device | None = None
) -> Tensor:
    """Logits for x, batch by batch, in evaluation mode, without gradient, on the CPU; each part keeps its mode."""
    modes = Modes(network)
    network.eval()
    try:
        with torch.no_grad():
            parts = [network(part.to(device)).cpu() for part in torch.split(x, batch_size)]
    finally:
        modes.restore()
    return torch.cat(parts)
