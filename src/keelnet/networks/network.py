"""Networks: opening, stages, linear classifier. Features apart from the classifier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from keelnet.dynamics.kernels import require_count
from keelnet.networks.blocks import Block
from keelnet.networks.connections import Affine


class Classifier(nn.Module):
    """A linear classifier y W + v: one decision an image ("image") or a pixel ("pixel").

    "image": (batch, channels, *space) → (batch, classes), the mean over space first. "pixel":
    (batch, channels, *space) → (batch, classes, *space). Raises ValueError for any other ``per``.
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

    def read(self, y: Tensor) -> Tensor:
        """What the linear map reads of the features: channels on the last axis."""
        if self.per == "image":
            return y.flatten(2).mean(dim=2) if y.ndim > 2 else y
        return y.movedim(1, -1)

    def forward(self, y: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.read(y))
        return logits if self.per == "image" else logits.movedim(-1, 1)


class SpatialClassifier(nn.Module):
    """The mean over space of y W + v with a weight for every point: W is an image a channel and class.

    (batch, channels, *space) → (batch, classes). A W that is the same at all points is `Classifier`'s
    per="image". Raises ValueError for features of another space.
    """

    def __init__(
        self,
        channels: int,
        space: Sequence[int],
        classes: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for size in space or (0,):
            require_count("every size in space", size)
        self.space = tuple(space)
        self.image_shape = (channels, *self.space, classes)
        points = math.prod(self.space)
        self.linear = Affine(channels * points, classes, generator=generator)
        with torch.no_grad():  # the logits of white noise are as large as those of per="image"
            self.linear.weight.mul_(points**0.5)

    def read(self, y: Tensor) -> Tensor:
        """What the linear map reads of the features: all of them, over the number of points."""
        if tuple(y.shape[1:]) != self.image_shape[:-1]:
            raise ValueError(
                f"features (batch, {', '.join(map(str, self.image_shape[:-1]))}) were wanted,"
                f" got {tuple(y.shape)}; give SpatialClassifier the space of its features"
            )
        return y.flatten(1) / math.prod(self.space)

    def forward(self, y: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.read(y))
        return logits


AnyClassifier = Classifier | SpatialClassifier


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


def classifier_of(network: nn.Module) -> AnyClassifier:
    """The one linear classifier of a network; raises ValueError where there is none or more than one."""
    found = [each for each in network.modules() if isinstance(each, AnyClassifier)]
    if len(found) != 1:
        raise ValueError(
            f"a network with one linear classifier was wanted, {type(network).__name__} has {len(found)};"
            " end it with kn.networks.Classifier, or leave out the terms and solvers of the classifier"
        )
    return found[0]


def every_block(network: nn.Module) -> list[Block]:
    """All blocks, those within the field of another as well: what runs, and by which strategy."""
    return [part for part in network.modules() if isinstance(part, Block)]


@contextmanager
def propagating(network: nn.Module, **settings: Any) -> Iterator[None]:
    """Within it every block, those within fields as well, has these attributes: a ``strategy``, or ``checked``."""
    blocks = every_block(network)
    before = [{name: getattr(block, name) for name in settings} for block in blocks]
    try:
        for block in blocks:
            _set(block, settings)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            _set(block, own)


def _set(block: Block, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        setattr(block, name, value)


def blocks_of(network: nn.Module) -> list[Block]:
    """The blocks of a network, in the order of its modules."""
    return [*dict.fromkeys(block for _, block in named_blocks(network))]


def named_blocks(network: nn.Module, name: str = "") -> Iterator[tuple[str, Block]]:
    """The blocks by dotted names, a shared one at each of its places; "" is the network itself.

    What lies within a block is its field, which runs with other numbers in every layer: it is no block of the network.
    """
    if isinstance(network, Block):
        yield name, network
        return
    for own, child in network._modules.items():
        if child is not None:
            yield from named_blocks(child, f"{name}.{own}" if name else own)
