"""Named networks: products of a field and an integrator, in one shape.

Every function takes (inputs, classes, **settings) with the settings of ``Settings``.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn

from keelnet.dynamics.activations import ActivationChoice
from keelnet.dynamics.controls import Interpolation
from keelnet.dynamics.fields import AntisymmetricField, Dynamics, SingleField, SymmetricField
from keelnet.dynamics.hamiltonian import DoubleHamiltonianField, HamiltonianField
from keelnet.dynamics.kernels import require_count
from keelnet.dynamics.norms import Norm
from keelnet.networks.blocks import Block, random_block
from keelnet.networks.connections import Affine, Pool, kernel_of
from keelnet.networks.network import Classifier, Network
from keelnet.networks.segmentation import Segmenter
from keelnet.propagation.gradients import Strategy, checkpointed, reversible
from keelnet.propagation.integrators import Euler, Integrator
from keelnet.propagation.shears import Leapfrog, Verlet


@dataclass(frozen=True)
class Settings:
    """The shape that the named networks share.

    width: channels, one number or one a level (levels halve the resolution between them).
    depth: layers in each block. final_time: T of each block. dim: 0 for (batch, channels), 1 … 3
    for (batch, channels, *space). damping: of ``antisymmetric``. closing: width of a last
    connection before the classifier, or None for no such connection. knots: of each control,
    as many as layers when None. strategy: None takes reversible where the method allows it, else
    checkpointed. seed: of the first parameters. classifier: one decision an "image", or a "pixel",
    which needs space axes and the one level that keeps their resolution.
    """

    width: int | Sequence[int] = 32
    depth: int = 8
    final_time: float = 1.0
    dim: int = 0
    stencil: int = 3
    activation: ActivationChoice = "tanh"
    norm: Norm | None = None
    damping: float | Literal["auto"] = "auto"
    closing: int | None = None
    knots: int | None = None
    interpolation: Interpolation = "linear"
    gain: float = 1.0
    strategy: Strategy | None = None
    seed: int = 0
    classifier: Literal["image", "pixel"] = "image"

    @property
    def widths(self) -> tuple[int, ...]:
        """One width a level."""
        widths = tuple(self.width) if isinstance(self.width, Iterable) else (self.width,)
        for width in widths or (0,):
            require_count("width", width)
        widths = tuple(map(int, widths))  # NumPy's are numbers of their own
        if self.dim == 0 and len(widths) > 1:
            raise ValueError(
                f"several widths need a resolution to halve, so dim 1 … 3; got dim 0 and {widths}"
            )
        if self.classifier == "pixel" and (self.dim == 0 or len(widths) > 1):
            raise ValueError(
                'classifier="pixel" needs dim 1 … 3 and one width, since every further level halves the '
                f"resolution; got dim {self.dim} and widths {widths}; use segmenter for several levels"
            )
        return widths


def _settings(given: dict[str, Any]) -> Settings:
    known = [field.name for field in fields(Settings)]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join(known)}")
    return Settings(**given)


FieldMaker = Callable[[Settings, int], Dynamics]


def residual(inputs: int, classes: int, **settings: Any) -> Network:
    """The plain residual network: Euler on f(y K + u)."""
    return _pyramid(
        inputs,
        classes,
        _settings(settings),
        Euler(),
        lambda shape, width: SingleField(
            kernel_of(shape.dim, width, width, shape.stencil), shape.activation, norm=shape.norm
        ),
    )


def antisymmetric(inputs: int, classes: int, **settings: Any) -> Network:
    """Euler on f(½ y (K − Kᵀ − γ I) + u) (Haber & Ruthotto 2018)."""
    return _pyramid(
        inputs,
        classes,
        _settings(settings),
        Euler(),
        lambda shape, width: AntisymmetricField(
            kernel_of(shape.dim, width, width, shape.stencil),
            shape.activation,
            shape.damping,
            norm=shape.norm,
        ),
    )


def hamiltonian(inputs: int, classes: int, **settings: Any) -> Network:
    """Verlet on the one-kernel Hamiltonian field; each width is halved into y and z."""
    return _pyramid(
        inputs,
        classes,
        _settings(settings),
        Verlet(),
        lambda shape, width: HamiltonianField(
            kernel_of(shape.dim, _half(width), _half(width), shape.stencil),
            shape.activation,
            norm=shape.norm,
        ),
    )


def double_hamiltonian(inputs: int, classes: int, **settings: Any) -> Network:
    """Verlet on the two-kernel Hamiltonian field (Chang et al. 2018); each width is halved into y and z."""

    def field(shape: Settings, width: int) -> Dynamics:
        kernel = kernel_of(shape.dim, _half(width), _half(width), shape.stencil)
        return DoubleHamiltonianField(kernel, kernel, shape.activation, norm=shape.norm)

    return _pyramid(inputs, classes, _settings(settings), Verlet(), field)


def parabolic(inputs: int, classes: int, **settings: Any) -> Network:
    """Euler on −f(y K + u) Kᵀ (Ruthotto & Haber 2020)."""
    return _pyramid(inputs, classes, _settings(settings), Euler(), _symmetric)


def second_order(inputs: int, classes: int, **settings: Any) -> Network:
    """Leapfrog on y'' = −f(y K + u) Kᵀ (Ruthotto & Haber 2020)."""
    return _pyramid(inputs, classes, _settings(settings), Leapfrog(), _symmetric)


def segmenter(inputs: int, classes: int, **settings: Any) -> Segmenter:
    """A class for every pixel or voxel: reversible Verlet stages over several resolutions.

    (batch, inputs, *space) → (batch, classes, *space); each space axis divisible by 2^(levels − 1 + folds). Takes ``dim``
    (1, 2 or 3) and, of the settings, width (one a level), depth (one number, or one a level), final_time, stencil,
    activation, norm, knots, strategy and seed; also rise (layers on the way up, as depth, 0 for none) and folds
    (0 … 3 Haar transforms before the opening). Raises ValueError for other settings, widths that are not even, and
    numbers that are not one a level.
    """
    known = list(inspect.signature(Segmenter).parameters)[2:]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join(known)}")
    for name in ("width", "depth", "rise"):
        value = settings.get(name, 0)
        if not isinstance(value, (Integral, Sequence)):
            raise ValueError(f"{name} must be an integer, or one a level in a list; got {value!r}")
    return Segmenter(inputs, classes, **settings)


def _symmetric(shape: Settings, width: int) -> Dynamics:
    kernel = kernel_of(shape.dim, width, width, shape.stencil)
    return SymmetricField(kernel, shape.activation, norm=shape.norm)


def _half(width: int) -> int:
    if width % 2:
        raise ValueError(
            f"a Hamiltonian network halves its width into y and z, so even; got {width}"
        )
    return width // 2


def _pyramid(
    inputs: int, classes: int, shape: Settings, integrator: Integrator, field: FieldMaker
) -> Network:
    """Opening, then a block a level with pooling and widening between levels, then the classifier."""
    generator = torch.Generator().manual_seed(shape.seed)

    def affine(before: int, after: int, stencil: int) -> Affine:
        return Affine(before, after, shape.dim, stencil, shape.activation, shape.norm, generator)

    def block(width: int) -> Block:
        return _block(shape, integrator, field(shape, width), generator)

    widths = shape.widths
    opening = affine(inputs, widths[0], shape.stencil)
    stages: list[nn.Module] = [block(widths[0])]
    for before, after in itertools.pairwise(widths):
        stages += [affine(before, after, 1), Pool(shape.dim), block(after)]
    if shape.closing is not None:
        stages.append(affine(widths[-1], shape.closing, 1))
    classifier = Classifier(shape.closing or widths[-1], classes, shape.classifier, generator)
    return Network(opening, stages, classifier)


def _block(
    shape: Settings, integrator: Integrator, field: Dynamics, generator: torch.Generator
) -> Block:
    strategy = shape.strategy
    if strategy is None:
        undoable = integrator.reversal_obstacle(integrator.adapted(field)) is None
        strategy = reversible if undoable else checkpointed
    return random_block(
        integrator,
        field,
        shape.depth,
        shape.final_time,
        strategy,
        generator,
        shape.knots,
        shape.interpolation,
        shape.gain,
    )
