"""Q-tips: rods to be labelled by the marks at both their ends, which no local window can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from keelnet.data.samples import WHOLE, Batch, Share

# Pixels: half the thickness of a rod, radius of its ends, least distance between the axes of two rods, which leaves
# more than a pixel's diagonal of background between their ends.
BODY, END, APART = 1.0, 2.0, 2 * 2.0 + 1.5
# Brightness of a rod, and of an end that is marked or not; the background is 0.
GREY, WHITE, DARK = 0.5, 1.0, 0.25
CLASS_NAMES = ("background", "none", "one", "two")
SHORTEST = 6
# Candidates a rod: where none is clear of the rods before, the image has fewer.
TRIES = 8
# Images drawn at once, or one batch if that is larger: eight at a time take twice as long an image.
DRAWN = 64
# Pixels, of one rod each, that are computed at once; the most rods and pixels that fit into the memory of a small machine.
PIXELS, RODS, SIZE = 1 << 21, 32, 512


@dataclass(frozen=True, eq=False)
class Rods:
    """Where the rods of some images lie: ends (images, rods, 2, 2) in pixels (row, column).

    present: (images, rods), false where no room was left. marked: (images, rods, 2), one an end;
    marks are drawn without regard to where anything lies.
    """

    ends: Tensor
    present: Tensor
    marked: Tensor

    def bodies(self, size: int) -> Tensor:
        """Pixels near the axis of each rod, (images, rods, size, size)."""
        first, second = self.ends[:, :, None, None].unbind(-2)
        near = _to_segment(_pixels(size), first, second) <= BODY
        return near & self.present[:, :, None, None]

    def caps(self, size: int) -> Tensor:
        """Pixels of each end, (images, rods, 2, size, size)."""
        offsets = _pixels(size) - self.ends[:, :, :, None, None]
        return (torch.hypot(*offsets.unbind(-1)) <= END) & self.present[:, :, None, None, None]

    def drawn(self, size: int) -> Batch:
        """Images (images, 1, size, size) without noise, and their labels (images, size, size)."""
        images, rods = self.present.shape
        few = max(1, PIXELS // (rods * size**2))
        parts = [self.of(part)._drawn(size) for part in torch.split(torch.arange(images), few)]
        return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])

    def of(self, images: Tensor) -> Rods:
        """Those of some of the images."""
        return Rods(self.ends[images], self.present[images], self.marked[images])

    def _drawn(self, size: int) -> Batch:
        body, caps = self.bodies(size), self.caps(size)
        ends = torch.where(self.marked, WHITE, DARK)[..., None, None]
        x = torch.where(caps.any(2), (caps * ends).amax(2), GREY * body).sum(1, keepdim=True)
        named = 1 + self.marked.sum(2)[..., None, None]
        return x, ((body | caps.any(2)) * named).sum(1)


@dataclass(frozen=True, eq=False)
class Qtips:
    """Images x (batch, 1, size, size) of rods, labels (batch, size, size); `qtips` makes them.

    Each end of a rod is bright or dark with probability ½, whatever the other is; all pixels of a rod have
    the class "none", "one" or "two", the number of its bright ends. So a window in which an end is
    missing leaves every rod pixel at accuracy ½ at best: "one" is the best guess where no end is seen, and an
    end that is seen leaves two classes equally likely. `local_accuracy` gives the bound for a window.
    Training images are drawn as training goes and never come twice; validation is fixed by the seed.
    """

    seed: int
    size: int
    length: float
    count: int
    rods: int
    noise: float
    withheld: int

    def __post_init__(self) -> None:
        for name in ("count", "rods", "withheld"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not SHORTEST <= self.length < float("inf"):
            raise ValueError(
                f"length must be at least {SHORTEST} pixels, got {self.length}: the ends of a shorter rod meet"
            )
        least = int(-(-self.length // 1) + 2 * END + 1)
        if self.size < least:
            raise ValueError(
                f"rods of length {self.length:g} with their ends need size {least} or more, got {self.size}"
            )
        for name, most in (("size", SIZE), ("rods", RODS)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, got {getattr(self, name)}")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be at least 0 and finite, got {self.noise}; try 0.05")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    @property
    def classes(self) -> int:
        return len(CLASS_NAMES)

    @property
    def channels(self) -> int:
        return 1

    @cached_property
    def validation(self) -> Batch:
        """The withheld images, always the same."""
        generator = self._withheld_generator()
        return self._noisy(self._rods(self.withheld, generator), generator)

    def batches(
        self, batch_size: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Iterator[Batch]:
        """``count`` images that were never seen before, see `Source.batches`."""
        if not 1 <= batch_size <= self.count:
            raise ValueError(
                f"batch_size must lie between 1 and the {self.count} images of an epoch, "
                f"got {batch_size}; use batch_size={min(max(batch_size, 1), self.count)}"
            )
        return self._batches(batch_size, generator, share)

    def local_accuracy(self, radius: int) -> float:
        """What no classifier of a window of (2 radius + 1)² pixels can exceed on the rods of `validation`, in the mean over marks.

        With the marks that `validation` has a guess may be a few hundredths above or below. ½ + ½ · the share of rod pixels that have pixels of both ends of their rod in the window: only
        these can be known. Raises ValueError for a radius below 0.
        """
        if radius < 0:
            raise ValueError(f"radius must be at least 0 pixels, got {radius}")
        rods = self._rods(self.withheld, self._withheld_generator())
        # A window cannot reach further than the image; along rows, then columns, is what it reaches.
        reach = min(radius, self.size)
        known = total = 0
        few = max(1, PIXELS // (self.rods * self.size**2))
        for part in torch.split(torch.arange(self.withheld), few):
            some = rods.of(part)
            caps = some.caps(self.size)
            inside = some.bodies(self.size) | caps.any(2)
            near = caps.flatten(0, 1).float()
            for sides, pad in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
                near = functional.max_pool2d(near, sides, 1, pad)
            known += int(((near > 0).view_as(caps).all(2) & inside).sum())
            total += int(inside.sum())
        return 0.5 + 0.5 * known / total

    def _batches(
        self, batch_size: int, generator: torch.Generator, share: Share
    ) -> Iterator[Batch]:
        together = batch_size * max(1, DRAWN // batch_size)
        for start in range(0, self.count, together):
            images = min(together, self.count - start)
            x, labels = self._noisy(self._rods(images, generator), generator)
            for part in torch.split(torch.arange(images), batch_size):
                own = part if share.size == 1 else part[list(share.of(len(part)))]
                yield x[own], labels[own]

    def _withheld_generator(self) -> torch.Generator:
        """Far from that of the seed itself, which a training from the same number would repeat."""
        (own,) = np.random.SeedSequence((self.seed, 1)).generate_state(1)
        return torch.Generator().manual_seed(int(own))

    def _rods(self, images: int, generator: torch.Generator) -> Rods:
        ends, present = _placed(images, self.rods, self.size, self.length, generator)
        marks = torch.randint(0, 2, (images, self.rods, 2), generator=generator)
        return Rods(ends, present, (marks > 0) & present[..., None])

    def _noisy(self, rods: Rods, generator: torch.Generator) -> Batch:
        x, labels = rods.drawn(self.size)
        return x + self.noise * torch.randn(x.shape, generator=generator), labels


def qtips(
    seed: int = 0,
    *,
    size: int = 32,
    length: float = 16,
    count: int = 512,
    rods: int = 6,
    noise: float = 0.05,
    withheld: int = 256,
) -> Qtips:
    """Q-tips after Haber, Lensink, Treister and Ruthotto (2019), IMEXnet: the class depends on both ends.

    ``length`` in pixels between the centres of the two ends, any orientation; up to ``rods`` an image,
    none touching another; ``noise``, the standard deviation of what is added to every pixel (background 0,
    rods 0.5, ends 0.25 or 1). ``count`` images an epoch, ``withheld`` for validation, these by ``seed``.

    Raises ValueError for a count below 1, a length below 6, a size that a rod does not fit into or above 512, and
    more than 32 rods.
    """
    return Qtips(seed, size, length, count, rods, noise, withheld)


def _placed(
    images: int, rods: int, size: int, length: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Ends (images, rods, 2, 2) and whether they are there: candidates in turn, each kept if it is clear of those kept."""
    tries = TRIES * rods
    candidates = _candidates(images, tries, size, length, generator)
    first, second = candidates.unbind(2)
    close = _between(first[:, :, None], second[:, :, None], first[:, None], second[:, None]) < APART
    kept = torch.zeros(images, tries, dtype=torch.bool)
    for i in range(tries):
        kept[:, i] = ~(kept & close[:, i]).any(1) & (kept.sum(1) < rods)
    order = torch.argsort(~kept, dim=1, stable=True)[:, :rods]
    image = torch.arange(images)[:, None]
    return candidates[image, order], kept[image, order]


def _candidates(
    images: int, tries: int, size: int, length: float, generator: torch.Generator
) -> Tensor:
    """Ends (images, tries, 2, 2) of rods of every direction, wholly inside the image."""
    angle = torch.pi * torch.rand(images, tries, generator=generator)
    half = length / 2 * torch.stack([angle.sin(), angle.cos()], dim=-1)
    room = (size - 1) / 2 - END - half.abs()
    middle = (size - 1) / 2 + room * (2 * torch.rand(images, tries, 2, generator=generator) - 1)
    return torch.stack([middle - half, middle + half], dim=2)


def _pixels(size: int) -> Tensor:
    """Row and column of each pixel, (size, size, 2)."""
    line = torch.arange(size, dtype=torch.float32)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1)


def _to_segment(point: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Distances of points from segments, all (..., 2)."""
    row, column = (point - first).unbind(-1)
    down, right = (second - first).unbind(-1)
    share = ((row * down + column * right) / (down**2 + right**2)).clamp(0, 1)
    return torch.hypot(row - share * down, column - share * right)


def _between(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Distances of the segments a b and c d: 0 where they cross, else from an end of one to the other."""
    to_ends = (
        _to_segment(a, c, d),
        _to_segment(b, c, d),
        _to_segment(c, a, b),
        _to_segment(d, a, b),
    )
    crossing = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
    return torch.stack(to_ends).amin(0).masked_fill(crossing, 0.0)


def _side(a: Tensor, b: Tensor, point: Tensor) -> Tensor:
    """Positive on one side of the line through a and b, negative on the other."""
    along, offset = b - a, point - a
    return along[..., 0] * offset[..., 1] - along[..., 1] * offset[..., 0]
