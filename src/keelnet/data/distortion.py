"""Distortion: what differs between scans of two heads, drawn anew for every image of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from keelnet.data.samples import Batch


@dataclass(frozen=True)
class Distortion:
    """Random geometry and intensity for skull-stripped images x (batch, 1, H, W) with label maps.

    Every number is the largest strength; each image draws its own up to it. 0 switches one off.
    Label 0 is background, where x is 0 and stays 0: noise in the air is stripped with the skull.

    Geometry, the same for image (linear) and labels (nearest):
    ``displacement`` in pixels, smooth over ``spacing`` pixels; ``rotation`` in degrees; ``scale``
    as a fraction; ``flip`` the probability of swapping left and right (axis H).
    Intensity, in units of x: ``gamma`` and ``contrast`` as fractions, ``bias`` the amplitude of a
    smooth factor around 1, ``noise`` the standard deviation of Rician noise.

    Raises ValueError for a strength that is negative, not finite, or so large that images fold.
    """

    displacement: float = 2.0
    spacing: float = 16.0
    rotation: float = 10.0
    scale: float = 0.08
    flip: float = 0.5
    gamma: float = 0.15
    contrast: float = 0.1
    bias: float = 0.2
    noise: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            strength = getattr(self, field.name)
            if not (math.isfinite(strength) and strength >= 0):
                raise ValueError(f"{field.name} must be a number >= 0, got {strength}; 0 is off")
        for name in ("scale", "flip", "gamma", "contrast", "bias"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is a fraction, at most 1, got {getattr(self, name)}")
        # Neighbouring knots may move against each other: steeper than this and the map folds.
        if self.spacing < max(1, 8 * self.displacement):
            raise ValueError(
                f"spacing must be at least 1 pixel and 8 times displacement = {self.displacement}, "
                f"got {self.spacing}; smoother or smaller displacements do not fold the image"
            )

    def __call__(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """Distorted (x, labels), shapes kept."""
        x, labels = self.moved(x, labels, generator)
        return self.rescaled(x, generator), labels

    def moved(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
        """Geometry alone."""
        points = self._points(x, generator)
        there = functional.grid_sample(
            labels[:, None].to(x.dtype), points, mode="nearest", align_corners=True
        )
        pair = torch.cat([x, (labels[:, None] > 0).to(x.dtype)], dim=1)
        value, brain = functional.grid_sample(pair, points, align_corners=True).chunk(2, dim=1)
        # Averaging over brain alone keeps the rim from darkening; where the nearest pixel is
        # brain, that pixel alone weighs a quarter.
        inside = value / brain.clamp(min=0.2)
        return torch.where(there > 0, inside, 0), there[:, 0].to(labels.dtype)

    def rescaled(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Intensity alone."""
        bent = x ** torch.exp(self.gamma * signed(x, generator))
        stretched = contrasted(bent, 1 + self.contrast * signed(x, generator))
        shaded = biased(stretched, self.bias * unsigned(x, generator), generator)
        return noisy(shaded, self.noise * unsigned(x, generator), generator)

    def _points(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Where each pixel looks, (batch, H, W, 2), in grid_sample's units: [-1, 1] along W, H."""
        half = (x.new_tensor([x.shape[3], x.shape[2]]) - 1).clamp(min=1) / 2
        turned = pixels(x) @ self._turns(x, generator)
        wandering = smooth(x, 2, self.spacing, generator).permute(0, 2, 3, 1)
        return (turned + self.displacement * wandering) / half

    def _turns(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Rotation, scale and flip, (batch, 1, 2, 2), acting on row vectors (along W, along H)."""
        angle = math.radians(self.rotation) * signed(x, generator)[:, 0]
        size = torch.exp(self.scale * signed(x, generator)[:, 0])
        mirror = torch.where(unsigned(x, generator)[:, 0] < self.flip, -size, size)
        along_w = torch.cat([size * angle.cos(), mirror * angle.sin()], dim=-1)
        along_h = torch.cat([-size * angle.sin(), mirror * angle.cos()], dim=-1)
        return torch.stack([along_w, along_h], dim=-2)


def contrasted(x: Tensor, factor: Tensor) -> Tensor:
    """Spread about each image's mean over brain (x > 0) by ``factor`` (batch, 1, 1, 1)."""
    brain = x > 0
    mean = x.sum((1, 2, 3), keepdim=True) / brain.sum((1, 2, 3), keepdim=True).clamp(min=1)
    # A dark voxel must not fall to 0: it would turn into background.
    return torch.where(brain, (mean + factor * (x - mean)).clamp(min=1e-3), 0)


def biased(x: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """x (1 + strength b) with b smooth over a third of the image and max |b| = 1 (coil shading)."""
    field = smooth(x, 1, max(x.shape[2:]) / 3, generator)
    field = field / field.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return x * (1 + strength * field)


def noisy(x: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    """Rician noise, |x + complex noise of standard deviation ``level``|, where x > 0."""
    real, imaginary = (level * torch.randn(x.shape, generator=generator) for _ in range(2))
    return torch.where(x > 0, torch.hypot(x + real, imaginary), 0)


def smooth(x: Tensor, channels: int, spacing: float, generator: torch.Generator) -> Tensor:
    """Random fields (batch, channels, H, W) in [-1, 1], bicubic between knots ``spacing`` apart."""
    knots = [int((side - 1) / spacing) + 1 for side in x.shape[2:]]
    coarse = 2 * torch.rand((len(x), channels, *knots), generator=generator) - 1
    fine = functional.interpolate(coarse, x.shape[2:], mode="bicubic", align_corners=True)
    # Bicubic curves overshoot their knots a little.
    return fine / fine.abs().amax((1, 2, 3), keepdim=True).clamp(min=1)


def pixels(x: Tensor) -> Tensor:
    """Pixel positions (H, W, 2) from the image's centre, (along W, along H)."""
    along_h, along_w = (torch.arange(side) - (side - 1) / 2 for side in x.shape[2:])
    rows, columns = torch.meshgrid(along_h, along_w, indexing="ij")
    return torch.stack([columns, rows], dim=-1).to(x.dtype)


def unsigned(x: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform number in [0, 1) an image, (batch, 1, 1, 1)."""
    return torch.rand((len(x), 1, 1, 1), generator=generator)


def signed(x: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform number in [-1, 1) an image, (batch, 1, 1, 1)."""
    return 2 * unsigned(x, generator) - 1
