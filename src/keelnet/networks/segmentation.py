"""The segmenter: reversible stages at several resolutions, joined by skips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from keelnet.dynamics.activations import ActivationChoice
from keelnet.dynamics.hamiltonian import HamiltonianField
from keelnet.dynamics.kernels import ConvKernel, require_count
from keelnet.dynamics.norms import Norm
from keelnet.networks.blocks import random_block
from keelnet.networks.connections import Affine, Pool, Upsample
from keelnet.networks.network import Classifier
from keelnet.networks.wavelets import Haar
from keelnet.propagation.gradients import Strategy, reversible
from keelnet.propagation.shears import Verlet


class Segmenter(nn.Module):
    """(batch, inputs, *space) → logits (batch, classes, *space).

    Down: a Verlet block a level on the one-kernel Hamiltonian field (width halved into y and z),
    then pooling by 2 and a 1 × 1 widening. Up: narrowing, linear upsampling, added to the level's
    own features (the skip), and a second Verlet block where ``rise`` asks for layers. Under ``reversible`` the
    memory saved for backward does not depend on the depths. Each space axis must be divisible by
    2^(levels − 1 + folds).

    width: channels of each level, even. depth: layers of each level on the way down, rise: on the way
    up (of all but the coarsest), each one number or one a level (0: none). folds: Haar transforms of the input
    before the opening and of the logits after the classifier: the finest level works at 1/2^folds of the
    resolution, on channels that hold all of it. Raises ValueError for widths that cannot be halved and
    depths that do not fit.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        dim: int = 3,
        width: int | Sequence[int] = (16, 32, 64),
        depth: int | Sequence[int] = 8,
        final_time: float = 4.0,
        stencil: int = 3,
        activation: ActivationChoice = "tanh",
        knots: int | None = None,
        strategy: Strategy = reversible,
        seed: int = 0,
        rise: int | Sequence[int] = 0,
        folds: int = 0,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        widths = _per_level("width", width, 1 if isinstance(width, int) else len(width))
        depths = _per_level("depth", depth, len(widths))
        rises = _per_level("rise", rise, len(widths) - 1)
        if not isinstance(folds, int) or not 0 <= folds <= 3:
            raise ValueError(f"folds must be 0, 1, 2 or 3, got {folds!r}")
        self.dim, self.folds = dim, folds
        self.haar = Haar(dim) if folds else None
        cells = 2 ** (dim * folds)
        self.opening = Affine(inputs * cells, widths[0], dim, stencil, generator=generator)

        def block(channels: int, layers: int) -> nn.Module:
            if layers == 0:
                return nn.Identity()
            kernel = ConvKernel(_half(channels), dim, stencil)
            field = HamiltonianField(kernel, activation, norm=norm)
            return random_block(
                Verlet(),
                field,
                layers,
                final_time,
                strategy,
                generator,
                knots and min(knots, layers),
            )

        self.levels = nn.ModuleList(map(block, widths, depths))
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(Pool(dim), Affine(fine, coarse, dim, generator=generator))
            for fine, coarse in pairs
        )
        self.up = nn.ModuleList(
            nn.Sequential(Affine(coarse, fine, dim, generator=generator), Upsample(dim))
            for fine, coarse in pairs
        )
        self.rises = nn.ModuleList(map(block, widths[:-1], rises))
        self.classifier = Classifier(widths[0], classes * cells, "pixel", generator)

    def features(self, x: Tensor) -> Tensor:
        """(batch, width[0], *space / 2^folds): what the classifier reads."""
        for _ in range(self.folds):
            assert self.haar is not None
            x = self.haar(x)
        seen = []
        y = self.opening(x)
        for level, down in zip(self.levels, [*self.down, None], strict=True):
            y = level(y)
            seen.append(y)
            y = y if down is None else down(y)
        for skip, up, rise in reversed(list(zip(seen, self.up, self.rises, strict=False))):
            y = rise(skip + up(y))
        return y

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        for _ in range(self.folds):
            assert self.haar is not None
            logits = self.haar.inverse(logits)
        return logits


def _per_level(name: str, value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels or not (values or name == "rise"):
        raise ValueError(f"{name} needs one number a level ({levels}), got {value!r}")
    for number in values:
        if name == "width" or number != 0:
            require_count(name, number)
    return values


def _half(width: int) -> int:
    if width % 2:
        raise ValueError(f"the segmenter halves each width into y and z, so even; got {width}")
    return width // 2
