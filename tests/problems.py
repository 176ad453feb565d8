"""The instances that the laws run over: every kernel, field and method once, and linear problems solved exactly.

A new integrator is one row in METHODS, a new field one row in FIELDS, a new kernel one in KERNELS.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import jacrev

import keelnet as kn
from keelnet.dynamics import Dynamics, Field, Kernel

REFERENCE = Path(__file__).parent / "reference"


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same numbers for the same seed, rounded to the type asked for."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class KernelCase:
    """A kernel and the space axes of the states it acts on."""

    kernel: Kernel
    space: tuple[int, ...] = ()

    def states(self, channels: int, seed: int = 0, batch: int = 2) -> Tensor:
        return randn(batch, channels, *self.space, seed=seed)

    def matrix(self, weight: Tensor) -> Tensor:
        """K as a matrix on flat columns, built one unit vector at a time."""
        shape = (self.kernel.inputs, *self.space)
        units = torch.eye(torch.Size(shape).numel(), dtype=weight.dtype)
        return self.kernel.apply(weight, units.reshape(-1, *shape)).flatten(1).T


def _conv(*arguments: int, space: tuple[int, ...], **settings: object) -> KernelCase:
    return KernelCase(kn.ConvKernel(*arguments, **settings), space)


KERNELS = {
    "dense": KernelCase(kn.DenseKernel(3)),
    "dense 3x5": KernelCase(kn.DenseKernel(3, 5)),
    "dense 4x2": KernelCase(kn.DenseKernel(4, 2)),
    "conv1": _conv(2, 1, 5, space=(7,)),
    "conv1 2x3": _conv(2, 1, 3, 3, space=(6,)),
    "conv2": _conv(2, 2, 3, space=(4, 5)),
    "conv2 flat stencil": _conv(3, 2, stencil=(1, 5), space=(3, 6)),
    "conv2 3x2": _conv(3, 2, stencil=(5, 3), out_channels=2, space=(5, 4)),
    "conv2 grouped": _conv(4, 2, groups=2, space=(4, 3)),
    "conv2 depthwise": _conv(3, 2, groups=3, space=(4, 4)),
    "conv2 grouped 4x2": _conv(4, 2, out_channels=2, groups=2, space=(3, 4)),
    "conv3": _conv(2, 3, 3, space=(3, 2, 3)),
    "conv3 1x2": _conv(1, 3, stencil=(3, 1, 5), out_channels=2, space=(3, 2, 4)),
    "conv3 depthwise": _conv(2, 3, groups=2, space=(2, 3, 3)),
}
SQUARE = {name for name, case in KERNELS.items() if case.kernel.inputs == case.kernel.outputs}


@dataclass(frozen=True)
class FieldCase:
    """A field, the space axes of its states, and the channels of a y0 that fills all its parts."""

    field: Dynamics
    channels: int
    space: tuple[int, ...] = ()

    @property
    def two_parts(self) -> bool:
        return not isinstance(self.field, Field)

    @property
    def damping(self) -> float | None:
        """γ of an antisymmetric field, None for any other."""
        return getattr(self.field, "damping", None)

    def y0(self, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        return randn(batch, self.channels, *self.space, seed=seed, dtype=dtype)

    def controls(
        self, depth: int, seed: int = 1, gain: float = 0.7, dtype: torch.dtype = torch.float64
    ) -> dict[str, Tensor]:
        """Another θ in every layer; every control is present."""
        values = {}
        for number, (name, slot) in enumerate(self.field.theta_shapes().items()):
            noise = randn(depth, *slot.shape, seed=100 * seed + number)
            if slot.kernel is not None:
                value = gain * noise / slot.kernel.fan_in**0.5
            elif slot.initial is not None:
                value = slot.initial + 0.3 * noise
            else:
                value = slot.fill + 0.3 * noise
            values[name] = value.to(dtype)
        return values

    def theta(self, seed: int = 1, gain: float = 0.7) -> dict[str, Tensor]:
        """The controls of one layer."""
        return {name: value[0] for name, value in self.controls(1, seed, gain).items()}

    def activated(self, activation: object) -> FieldCase:
        """The same case with another activation; identity makes the field linear."""
        return replace(self, field=replace(self.field, activation=activation))

    @property
    def plain(self) -> bool:
        """Whether the field is kernels and an activation alone, so that identity makes it linear."""
        return getattr(self.field, "norm", self) is None


def branch(width: int, seed: int = 0) -> nn.Sequential:
    """A residual branch with numbers of its own."""
    module = nn.Sequential(nn.Linear(width, width), nn.Tanh()).double()
    with torch.no_grad():
        for number, value in enumerate(module.parameters()):
            value.copy_(0.5 * randn(*value.shape, seed=10 * seed + number))
    return module


def _on(name: str, make: Callable[..., Dynamics], *others: str) -> FieldCase:
    """A field on kernels of the table; two-part fields get features for both parts."""
    cases = [KERNELS[each] for each in (name, *others)]
    made = make(*(case.kernel for case in cases))
    kernel = cases[0].kernel
    channels = kernel.inputs
    if isinstance(made, kn.HamiltonianField):
        channels += kernel.outputs
    elif isinstance(made, kn.DoubleHamiltonianField):
        channels *= 2
    return FieldCase(made, channels, cases[0].space)


FIELDS = {
    "single": _on("dense", kn.SingleField),
    "single conv1": _on("conv1", kn.SingleField),
    "single conv2 grouped": _on("conv2 grouped", kn.SingleField),
    "single conv3": _on("conv3", kn.SingleField),
    "single normed": _on("conv2", lambda k: kn.SingleField(k, norm=kn.InstanceNorm())),
    "antisymmetric": _on("dense", kn.AntisymmetricField),
    "antisymmetric conv1": _on("conv1", kn.AntisymmetricField),
    "antisymmetric damped": _on("dense", lambda k: kn.AntisymmetricField(k, damping=0.4)),
    "antisymmetric damped conv2": _on("conv2", lambda k: kn.AntisymmetricField(k, damping=0.4)),
    "antisymmetric depthwise": _on("conv2 depthwise", kn.AntisymmetricField),
    "antisymmetric conv3": _on("conv3", kn.AntisymmetricField),
    "symmetric": _on("dense", kn.SymmetricField),
    "symmetric 3x5": _on("dense 3x5", kn.SymmetricField),
    "symmetric conv1 2x3": _on("conv1 2x3", kn.SymmetricField),
    "symmetric conv2 3x2": _on("conv2 3x2", kn.SymmetricField),
    "symmetric conv3 depthwise": _on("conv3 depthwise", kn.SymmetricField),
    "symmetric normed": _on("dense 4x2", lambda k: kn.SymmetricField(k, norm=kn.ChannelNorm())),
    "module": FieldCase(kn.ModuleField(branch(3)), 3),
    "hamiltonian": _on("dense", kn.HamiltonianField),
    "hamiltonian 3x5": _on("dense 3x5", kn.HamiltonianField),
    "hamiltonian 4x2": _on("dense 4x2", kn.HamiltonianField),
    "hamiltonian conv1 2x3": _on("conv1 2x3", kn.HamiltonianField),
    "hamiltonian conv2": _on("conv2", kn.HamiltonianField),
    "hamiltonian conv2 grouped 4x2": _on("conv2 grouped 4x2", kn.HamiltonianField),
    "hamiltonian conv3": _on("conv3", kn.HamiltonianField),
    "hamiltonian normed": _on("conv2", lambda k: kn.HamiltonianField(k, norm=kn.ChannelNorm())),
    "double": _on("dense", kn.DoubleHamiltonianField, "dense"),
    "double 3x5": _on("dense", kn.DoubleHamiltonianField, "dense 3x5"),
    "double conv1": _on("conv1", kn.DoubleHamiltonianField, "conv1 2x3"),
    "double conv2": _on("conv2 depthwise", kn.DoubleHamiltonianField, "conv2 3x2"),
    "double conv3": _on("conv3", kn.DoubleHamiltonianField, "conv3 depthwise"),
    "double normed": _on(
        "dense", lambda *two: kn.DoubleHamiltonianField(*two, norm=kn.ChannelNorm()), "dense 3x5"
    ),
    "module pair": FieldCase(kn.ModuleField(branch(2)).paired(), 4),
}
PLAIN = [name for name, case in FIELDS.items() if case.plain]


@dataclass(frozen=True)
class Method:
    """An integrator, its order of convergence in y, and the fields it is meant for."""

    integrator: kn.Integrator
    order: int
    moves: Callable[[FieldCase], bool]


def _all(case: FieldCase) -> bool:
    return True


def _not_rotating(case: FieldCase) -> bool:
    """Explicit Euler grows at every h on a field that only rotates."""
    return case.damping != 0


def _rows(case: FieldCase) -> bool:
    return not case.two_parts and case.damping != 0 and case.channels == 3 and not case.space


def _grids(case: FieldCase) -> bool:
    return not case.two_parts and case.damping != 0 and bool(case.space)


def _second_order(case: FieldCase) -> bool:
    """y'' = f(y) grows at every h where f rotates."""
    return not case.two_parts and case.damping is None


def _undamped(case: FieldCase) -> bool:
    return not case.two_parts and not case.damping


def _two_parts(case: FieldCase) -> bool:
    return case.two_parts


_ROOT = randn(3, 3, seed=7)
METHODS = {
    "euler": Method(kn.Euler(), 1, _not_rotating),
    "rk4": Method(kn.RK4(), 4, _all),
    "imex cholesky": Method(kn.IMEX(kn.DenseDiffusion(_ROOT @ _ROOT.T)), 1, _rows),
    "imex fft": Method(kn.IMEX(kn.LaplacianDiffusion(0.7)), 1, _grids),
    "verlet": Method(kn.Verlet(), 1, _two_parts),
    "verlet half": Method(kn.Verlet("half"), 2, _two_parts),
    "leapfrog": Method(kn.Leapfrog(), 1, _second_order),
    "leapfrog half": Method(kn.Leapfrog("half"), 2, _second_order),
    "midpoint": Method(kn.Midpoint(), 2, _undamped),
}


@dataclass(frozen=True)
class Scheme:
    """A method on a field, with features and controls drawn for it."""

    method: Method
    case: FieldCase

    @property
    def integrator(self) -> kn.Integrator:
        return self.method.integrator

    @property
    def field(self) -> Dynamics:
        return self.case.field

    @property
    def reversible(self) -> bool:
        return self.integrator.reversal_obstacle(self.field) is None

    def state(self, y0: Tensor) -> tuple[Tensor, ...]:
        """The state at layer 0."""
        return self.integrator.begin(self.integrator.adapted(self.field).parts(y0))

    def run(self, y0: Tensor, controls: dict[str, Tensor], h: float, **settings: object) -> Tensor:
        return kn.propagate(self.integrator, self.field, y0, controls, h, **settings)


SCHEMES = {
    f"{method} on {field}": Scheme(METHODS[method], FIELDS[field])
    for method in METHODS
    for field in FIELDS
    if METHODS[method].moves(FIELDS[field])
}
REVERSIBLE = [name for name, scheme in SCHEMES.items() if scheme.reversible]
IRREVERSIBLE = [name for name, scheme in SCHEMES.items() if not scheme.reversible]


def constant(theta: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The same θ in every layer."""
    return {name: value.expand(depth, *value.shape) for name, value in theta.items()}


def flat(parts: tuple[Tensor, ...]) -> Tensor:
    """All parts of one sample on one axis."""
    return torch.cat([part.flatten() for part in parts])


def jacobian(field: Dynamics, parts: tuple[Tensor, ...], theta: dict[str, Tensor]) -> Tensor:
    """d rates / d parts as a matrix on flat columns, for a batch of one."""
    shapes = [part.shape for part in parts]
    sizes = [part.numel() for part in parts]

    def rates(state: Tensor) -> Tensor:
        pieces = state.split(sizes)
        given = tuple(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True))
        return flat(field.rates(given, theta))

    return jacrev(rates)(flat(parts))


def solved(scheme: Scheme, y0: Tensor, theta: dict[str, Tensor], time: float) -> Tensor:
    """y at ``time`` by the matrix exponential, for a field that is linear (identity) and θ constant.

    First order: s' = A s + b. Second order (Leapfrog): y'' = A y + b, y' = 0 at the start. IMEX
    subtracts its L.
    """
    field = scheme.integrator.adapted(scheme.field)
    parts = field.parts(y0)
    still = tuple(torch.zeros_like(part) for part in parts)
    matrix, push = jacobian(field, still, theta), flat(field.rates(still, theta))
    start = flat(parts)
    if isinstance(scheme.integrator, kn.IMEX):
        diffusion = scheme.integrator.diffusion
        apply = jacrev(lambda y: diffusion.apply(y.reshape(y0.shape)).flatten())
        matrix = matrix - apply(torch.zeros_like(start))
    if isinstance(scheme.integrator, kn.Leapfrog):
        zero, none = torch.zeros_like(start), torch.zeros_like(matrix)
        identity = torch.eye(len(start), dtype=start.dtype)
        matrix = torch.cat((torch.cat((none, identity), 1), torch.cat((matrix, none), 1)))
        start, push = torch.cat((start, zero)), torch.cat((zero, push))
    size = len(start)
    affine = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    affine[:size, :size], affine[:size, size] = matrix, push
    final = torch.linalg.matrix_exp(time * affine) @ torch.cat((start, torch.ones(1)))
    return final[: parts[0].numel()].reshape(parts[0].shape)


def leaves_of(
    scheme: Scheme,
    depth: int,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    device: str = "cpu",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features and controls that need gradients."""
    y0 = scheme.case.y0(batch, dtype=dtype).to(device).requires_grad_()
    controls = scheme.case.controls(depth, dtype=dtype)
    return y0, {name: value.to(device).requires_grad_() for name, value in controls.items()}


def pulled(
    scheme: Scheme,
    strategy: object,
    depth: int = 6,
    h: float = 0.1,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    device: str = "cpu",
    under: AbstractContextManager | None = None,
) -> list[Tensor]:
    """y(T) and the gradient of a fixed functional by y0 and every control; the way forward ``under`` an engine."""
    y0, controls = leaves_of(scheme, depth, dtype, batch, device)
    with under or nullcontext():
        value = scheme.run(y0, controls, h, strategy=strategy)
    push = randn(*value.shape, seed=5, dtype=dtype).to(device)
    return [value, *torch.autograd.grad((value * push).sum(), [y0, *controls.values()])]


def check_alike(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """Each in its norm; of zeros the law would say nothing."""
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
        size = float(other.detach().norm())
        assert size > 0
        assert float((one - other).detach().norm()) <= tolerance * size


def choice_of(engine: str, scheme: Scheme, batch: int = 2) -> object | None:
    """What takes the scheme where this engine is asked for; None where it cannot."""
    y0, controls = scheme.case.y0(batch), scheme.case.controls(2)
    try:
        with kn.engine(engine):
            return kn.engine_of(scheme.integrator, scheme.field, y0, controls, 0.1)
    except ValueError:
        return None


class Around(nn.Module):
    """x + branch(x): a residual block."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def exact_growth(network: nn.Module, y: Tensor) -> float:
    """The largest singular value of the network's Jacobian over the samples, by autograd."""
    jacobians = (
        torch.autograd.functional.jacobian(lambda x: network(x[None])[0], one) for one in y
    )
    return max(float(torch.linalg.matrix_norm(each, 2)) for each in jacobians)
