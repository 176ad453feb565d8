"""Stabilised: the residual branches of an ordinary network under an integrator that keeps what it is given."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from keelnet.dynamics.controls import Control
from keelnet.dynamics.modules import ModuleField
from keelnet.networks.blocks import Block
from keelnet.propagation.checks import step_from
from keelnet.propagation.gradients import Strategy, store_all
from keelnet.propagation.integrators import Integrator
from keelnet.propagation.shears import Verlet


class Branch(nn.Module):
    """F of a residual block y + F(y), read off the block: F(y) = block(y) − y."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, y: Tensor) -> Tensor:
        value = self.block(y.clone())  # the block may change its input in place
        if not isinstance(value, Tensor) or value.shape != y.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(
                "stabilised needs blocks that answer with one tensor of the shape of their input, but"
                f" {type(self.block).__name__} turned {tuple(y.shape)} into {found}; wrap it in a module that does"
            )
        return value - y


def stabilised(
    blocks: Sequence[nn.Module],
    integrator: Integrator | None = None,
    step_size: float = 1.0,
    whole: bool = True,
    channels: int | None = None,
    axis: int = 1,
    strategy: Strategy = store_all,
) -> Block:
    """The branches F_1 … F_N of residual blocks y + F_j(y) as the layers of one Block under ``integrator``.

    Default is Verlet: z ← z − h F_j(y); y ← y + h F_j(z), with z at 0 before it (or features split in two halves);
    ``kn.Leapfrog()``: v ← v + h F_j(y); y ← y + h v. Both keep volume and can be stepped back, which bounds the growth
    where ∂F/∂y has real (for Leapfrog: real and not positive) eigenvalues μ and h |μ| ≤ 2 (Leapfrog: h² |μ| ≤ 4); complex ones
    still grow. So ask ``kn.analysis.stability(block, x, layers="all")`` of the result.

    blocks: modules of one shape that keep that of their input; whole=False: they are the branches themselves. Their
    parameters are copied into the Block's Control, a knot a layer; frozen ones stay frozen. Raises ValueError for blocks
    that differ in more than the numbers of their parameters: in shapes, settings (dilation, a drop probability, the
    mode) or buffers (several with running statistics, which a Control cannot hold), and under Verlet for
    blocks whose layers do not tell how many ``channels`` they read.
    """
    listed = isinstance(blocks, (Sequence, nn.ModuleList, nn.Sequential))
    if not listed or not blocks or not all(isinstance(block, nn.Module) for block in blocks):
        raise ValueError(f"stabilised needs a list of modules, at least one; got {blocks!r}")
    branches = [Branch(block) for block in blocks] if whole else list(blocks)
    values = {
        name: nn.Parameter(value.detach(), _learns(branches, name))
        for name, value in ModuleField.stacked(branches).items()
    }
    depth, h = len(branches), step_from(step_size)
    field = ModuleField(branches[0], channels, axis)
    method = Verlet() if integrator is None else integrator
    if isinstance(method, Verlet) and field.width is None:
        raise ValueError(
            "the layers of the blocks do not tell how many channels they read, so whether features are to be split in two"
            " halves cannot be told; pass channels=…"
        )
    return Block(method, field, depth, depth * h, Control(values, knots=depth), strategy)


def _learns(branches: Sequence[nn.Module], name: str) -> bool:
    """Whether a parameter is trained: in every layer or in none, since the layers of a Control are one tensor."""
    learns = [branch.get_parameter(name).requires_grad for branch in branches]
    if len(set(learns)) > 1:
        raise ValueError(
            f"{name} is frozen in layer {learns.index(False) + 1} but not in layer {learns.index(True) + 1};"
            " call requires_grad_ on all of them or on none"
        )
    return learns[0]
