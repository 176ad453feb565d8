"""Networks: opening, stages, linear classifier. Features apart from the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from keelnet.networks.blocks import Block
from keelnet.networks.connections import Affine


class Classifier(nn.Module):
    """A linear classifier y W + v: one decision an image ("image") or a pixel ("pixel").

    "image": (batch, channels, *space) → (batch, classes), the mean over space first. "pixel":
    (batch, channels, *space) → (batch, classes, *space).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        per: Literal["image", "pixel"] = "image",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if per not in ("image", "pixel"):
            raise ValueError(f'per must be "image" or "pixel", got {per!r}')
        self.per = per
        self.linear = Affine(channels, classes, generator=generator)

    def forward(self, y: Tensor) -> Tensor:
        if self.per == "image":
            return self.linear(y.flatten(2).mean(dim=2) if y.ndim > 2 else y)
        return self.linear(y.movedim(1, -1)).movedim(-1, 1)


class Network(nn.Module):
    """x ↦ classifier(features(x)); features = opening, then the stages in order.

    Stages are Blocks and connections, or any module of one input.
    """

    def __init__(self, opening: nn.Module, stages: Sequence[nn.Module], classifier: nn.Module):
        super().__init__()
        self.opening = opening
        self.stages = nn.ModuleList(stages)
        self.classifier = classifier

    def features(self, x: Tensor) -> Tensor:
        """What the classifier reads."""
        y = self.opening(x)
        for stage in self.stages:
            y = stage(y)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks of a network, in the order of its modules."""
    return [module for module in network.modules() if isinstance(module, Block)]
