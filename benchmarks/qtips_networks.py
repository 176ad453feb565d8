"""The networks of the Q-tips study: four kinds, any depth, equal numbers of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from monai.networks.nets import UNet
from torch import nn

import keelnet as kn
from keelnet.data.qtips import CLASS_NAMES
from keelnet.networks import Classifier

# Knots of every deep control; a shallow network has one a layer, and the width that makes up for it.
KNOTS = 8
PARAMETERS = 4800
# Of the antisymmetric field: enough to be felt over the depths here, small beside its frequencies of about 1.4.
DAMPING = 0.1
# Units a level of MONAI's UNet by depth: convolutions on its longest path are 3 units + 4 (5 where there are none).
UNITS = {4: 0, 8: 1, 16: 4, 32: 9, 64: 20, 128: 41}
DEPTHS = tuple(UNITS)


def residual(width: int, depth: int, step: float, seed: int) -> kn.Network:
    """Euler on f(y K + u), stored."""
    return _single(kn.SingleField(_kernel(width)), kn.Euler(), width, depth, step, seed)


def antisymmetric(width: int, depth: int, step: float, seed: int) -> kn.Network:
    """Euler on f(½ y (K − Kᵀ − γ I) + u)."""
    field = kn.AntisymmetricField(_kernel(width), damping=DAMPING)
    return _single(field, kn.Euler(), width, depth, step, seed)


def verlet(width: int, depth: int, step: float, seed: int) -> kn.Network:
    """Verlet on the one-kernel Hamiltonian field, ``width`` channels in y and as many in z."""
    field = kn.HamiltonianField(_kernel(width))
    return _single(field, kn.Verlet(), 2 * width, depth, step, seed)


KEELNET = {"residual": residual, "antisymmetric": antisymmetric, "verlet": verlet}
NETWORKS = (*KEELNET, "unet")


def network(name: str, depth: int, step: float, seed: int) -> nn.Module:
    """The network of that name and depth whose number of parameters is nearest to PARAMETERS.

    Raises ValueError where none is within a tenth of it.
    """
    if name == "unet":
        makers: Iterator[Callable[[], nn.Module]] = _unets(depth, seed)
    else:
        make = KEELNET[name]
        makers = (lambda width=width: make(width, depth, step, seed) for width in range(2, 33))  # type: ignore[misc]
    best = min((maker() for maker in makers), key=lambda one: abs(parameters(one) - PARAMETERS))
    if abs(parameters(best) / PARAMETERS - 1) > 0.1:
        raise ValueError(
            f"{name} at depth {depth} has {parameters(best)} parameters, not {PARAMETERS} ± 10 %"
        )
    return best


def parameters(one: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(value.numel() for value in one.parameters())


def reach(name: str, depth: int) -> int | None:
    """Radius in pixels of the window that a logit is computed from; None where it is the whole image.

    A layer of Verlet applies K and then Kᵀ. MONAI's UNet normalises each image by its own mean and spread.
    """
    return {"residual": depth + 1, "antisymmetric": depth + 1, "verlet": 2 * depth + 1}.get(name)


def _kernel(width: int) -> kn.ConvKernel:
    return kn.ConvKernel(width, dim=2)


def _single(
    field: kn.Field | kn.PartitionedField,
    integrator: kn.Integrator,
    channels: int,
    depth: int,
    step: float,
    seed: int,
) -> kn.Network:
    """Opening, one block at the image's own resolution, a class for every pixel."""
    generator = torch.Generator().manual_seed(seed)
    opening = kn.Affine(1, channels, dim=2, stencil=3, generator=generator)
    control = kn.Control.random(field, min(depth, KNOTS), generator)
    block = kn.Block(integrator, field, depth, step * depth, control, kn.store_all)
    classifier = Classifier(channels, len(CLASS_NAMES), "pixel", generator)
    return kn.Network(opening, [block], classifier)


def _unets(depth: int, seed: int) -> Iterator[Callable[[], nn.Module]]:
    """MONAI's UNet of three levels, its channels nearly equal, so that many parameters go into depth."""
    if depth not in UNITS:
        raise ValueError(f"depth of the UNet must be one of {DEPTHS}, got {depth}")

    def unet(channels: tuple[int, ...]) -> nn.Module:
        torch.manual_seed(seed)
        return UNet(2, 1, len(CLASS_NAMES), channels, (2, 2), num_res_units=UNITS[depth])

    for first, more, most in itertools.product(range(2, 13), (0, 1, 2), (0, 1, 2)):
        channels = (first, first + more, first + more + most)
        if _plausible(channels, UNITS[depth]):
            yield lambda channels=channels: unet(channels)  # type: ignore[misc]


def _plausible(channels: tuple[int, ...], units: int) -> bool:
    """Weights of the main path within a factor of two: the rest need not be built to be counted."""
    weights = 9 * (max(1, units) + 1) * sum(width**2 for width in channels)
    return PARAMETERS / 2 < weights < PARAMETERS * 2
