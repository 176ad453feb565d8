"""The segmenter: reversible stages at several resolutions, joined by skips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from keelnet.dynamics.activations import ActivationChoice
from keelnet.dynamics.hamiltonian import HamiltonianField
from keelnet.dynamics.kernels import ConvKernel, require_count
from keelnet.dynamics.norms import Norm
from keelnet.networks.blocks import random_block
from keelnet.networks.connections import Affine, Pool, Upsample
from keelnet.networks.network import Classifier
from keelnet.networks.wavelets import Haar
from keelnet.propagation.effects import is_transformed
from keelnet.propagation.engines.choice import as_now, watched
from keelnet.propagation.gradients import Strategy, reversible, store_all
from keelnet.propagation.shears import Verlet

# Bytes of the finest level's features: of more than that they are computed again instead of kept.
LARGE = 1 << 25
# By number of axes: channels last in memory, as blocks write their states.
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Segmenter(nn.Module):
    """(batch, inputs, *space) → logits (batch, classes, *space).

    Down: a Verlet block a level on the one-kernel Hamiltonian field (width halved into y and z),
    then pooling by 2 and a 1 × 1 widening. Up: narrowing, linear upsampling, added to the level's
    own features (the skip), and a second Verlet block where ``rise`` asks for layers. Under ``reversible`` the
    memory saved for backward does not depend on the depths; unless the strategy is ``store_all``, training
    keeps nothing of the finest level's way up where its features take more than 32 MB: it is computed again a
    sample at a time (but not within a transform of torch.func, which has no way through that). Each space axis must
    be divisible by 2^(levels − 1 + folds).

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
        levels = 1 if _is_integer(width) else len(width)  # type: ignore[arg-type]
        widths = _per_level("width", width, levels)
        depths = _per_level("depth", depth, len(widths))
        rises = _per_level("rise", rise, len(widths) - 1)
        if not _is_integer(folds) or not 0 <= folds <= 3:
            raise ValueError(f"folds must be 0, 1, 2 or 3, got {folds!r}")
        self.dim, self.folds = dim, int(folds)
        self.has_fine_layers = depths[0] > 0
        # The finest level is where memory goes: a large one is labelled a sample at a time, and again for the gradient.
        self.frugal = strategy is not store_all and len(widths) > 1
        self.haar = Haar(dim) if folds else None
        cells = 2 ** (dim * self.folds)
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
        x = self._folded(x)
        return self._joined(*self._ways(x, again=False), again=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self._folded(x)
        frugal = self._is_frugal(x)
        again = frugal and not self.has_fine_layers
        fine, *coarse = self._ways(x, again)
        if frugal:
            each = zip(*(torch.split(way, 1) for way in (fine, *coarse)), strict=True)
            logits = self._labelled_again(each, again)
        else:
            logits = self._labelled(fine, *coarse, again=again)
        for _ in range(self.folds):
            assert self.haar is not None
            logits = self.haar.inverse(logits)
        return logits

    def _is_frugal(self, x: Tensor) -> bool:
        """Whether the finest level is computed again: where it is large, and for training.

        Not within a transform of torch.func, which would be over by then.
        """
        size = x[:, 0].numel() * self.opening.kernel.outputs * x.element_size()
        trains = self.training and torch.is_grad_enabled()
        return self.frugal and trains and size > LARGE and not is_transformed()

    def _folded(self, x: Tensor) -> Tensor:
        x = _channels_last(x)
        for _ in range(self.folds):
            assert self.haar is not None
            x = self.haar(x)
        return x

    def _ways(self, x: Tensor, again: bool) -> tuple[Tensor, ...]:
        """Down to the coarsest level and up again, but for the finest: what its skip is made of, and what comes up.

        ``again``: the skip is to be opened again from x, which costs an opening and keeps nothing.
        """
        y = self.levels[0](self.opening(x))
        seen = [x if again else y]
        for level, down in zip(self.levels[1:], self.down, strict=True):
            y = level(down(y))
            seen.append(y)
        if len(seen) == 1:
            return (y,)
        ways = list(zip(seen[1:], self.up[1:], self.rises[1:], strict=False))
        for skip, up, rise in reversed(ways):
            y = rise(skip + up(y))
        return seen[0], y

    def _joined(self, fine: Tensor, *coarse: Tensor, again: bool) -> Tensor:
        """The finest level's features, from both ways."""
        if not coarse:
            return fine
        skip = self.opening(fine) if again else fine
        return self.rises[0](skip + self.up[0](*coarse))

    def _labelled_again(self, samples: Iterable[tuple[Tensor, ...]], again: bool) -> Tensor:
        """`_labelled` one by one, of which nothing is kept: the gradient computes it once more, by the same engine.

        And by the tensors of now: those that torch.func.functional_call puts in parameters' places are gone by then.
        """
        labelled: Callable[..., Tensor] = self._labelled
        if not torch.compiler.is_compiling():  # a trace reads them once
            labelled = _Finest(self).with_tensors_of_now()
        return torch.cat(
            [
                checkpoint(labelled, *ways, again=again, use_reentrant=False, context_fn=as_now())
                for ways in samples
            ]
        )

    def _labelled(self, fine: Tensor, *coarse: Tensor, again: bool) -> Tensor:
        logits: Tensor = self.classifier(self._joined(fine, *coarse, again=again))
        return logits


class _Finest(nn.Module):
    """The finest level's way up of a segmenter and its classifier, as a module."""

    def __init__(self, net: Segmenter) -> None:
        super().__init__()
        self.parts = nn.ModuleList([net.opening, net.up[0], net.rises[0], net.classifier])
        self.labelled = net._labelled

    def forward(self, *ways: Tensor, again: bool) -> Tensor:
        return self.labelled(*ways, again=again)

    def with_tensors_of_now(self) -> Callable[..., Tensor]:
        """The module as a function, whose parameters and buffers stay those of this call."""
        now = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return lambda *ways, again: functional_call(self, now, ways, {"again": again})


def _channels_last(x: Tensor) -> Tensor:
    """x in channels-last memory, which all that follows keeps; x itself where it lies so.

    And where every operation is looked at: a compiler chooses layouts by itself, and torch.func.vmap has no such one.
    """
    if x.ndim not in _LAST or watched((x,)) is not None:
        return x
    # Not ``contiguous``, for which an image of one channel lies so already.
    return x.to(memory_format=_LAST[x.ndim])


def _is_integer(value: object) -> bool:
    """One of NumPy's, too."""
    return isinstance(value, Integral)


def _per_level(name: str, value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    values: tuple[Any, ...] = (value,) * levels if _is_integer(value) else tuple(value)  # type: ignore[arg-type]
    if len(values) != levels or not (values or name == "rise"):
        raise ValueError(f"{name} needs one number a level ({levels}), got {value!r}")
    for number in values:
        if name == "width" or number != 0:
            require_count(name, number)
    return tuple(map(int, values))


def _half(width: int) -> int:
    if width % 2:
        raise ValueError(f"the segmenter halves each width into y and z, so even; got {width}")
    return width // 2
