"""Stability: does a network's propagation grow, keep or shrink what enters it, and by how much?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral
from operator import index
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from keelnet.analysis.calls import NARROW, Call
from keelnet.analysis.conditions import (
    first_line,
    recorded,
    require_readable,
    require_repeatable,
)
from keelnet.analysis.growths import growth_by_layer, growth_of
from keelnet.analysis.invariants import invariants
from keelnet.analysis.layers import euler_damping, layer_stability
from keelnet.analysis.levels import TOLERANCE
from keelnet.analysis.path import Path, PathDerivative
from keelnet.analysis.reports import BlockStability, StabilityReport
from keelnet.analysis.spectra import Complex
from keelnet.analysis.tables import listed
from keelnet.analysis.visits import cleaned, evaluating, measuring, visit, written
from keelnet.dynamics.activations import activation_from
from keelnet.dynamics.bends import Bender
from keelnet.dynamics.copies import copied
from keelnet.dynamics.fields import (
    AntisymmetricField,
    Dynamics,
    SingleField,
    slope_of,
)
from keelnet.dynamics.kernels import require_count
from keelnet.networks.blocks import Block
from keelnet.networks.network import named_blocks
from keelnet.propagation import IMEX, Euler, Integrator
from keelnet.propagation.bounds import answered
from keelnet.propagation.integrators import numbers

ORIENTATION = "an orientation, since f' may differ between channels"
NEGATIVE = "an orientation, since f' may be negative"
LOOKED_AT = "of the layers that were looked at"
NORMED = "bounds under norm= depend on the state"
TOGETHER = "under IMEX field and diffusion decide together whether a layer grows"
FOUND = "of the eigenvalues that were found"
Layers = int | Sequence[int] | Literal["all"] | None


@measuring()
def stability(
    network: nn.Module, x: Tensor, layers: Layers = None, iterations: int = 30
) -> StabilityReport:
    """The stability of every keelnet block of a network (or of one block) at the inputs x (samples, …).

    For each block: the step bound and the amplification of its layers from their spectra
    (frozen in time, f' at its largest: for a SingleField f' = its slope everywhere, an orientation and no bound); the largest and the least singular value of the Jacobian of the whole block at
    the features that reach it (exact up to 64 numbers a sample, else within ``iterations`` steps of
    Golub–Kahan–Lanczos), the largest over the samples and the least; the energy and how exactly it can be stepped back.

    ``layers``: also of single layers, those named (from 0), so many spread evenly, or "all", at the state of the sample that grows most:
    the spectrum of the Jacobian of the rate (all of it up to 400 numbers a sample, else its ends by Arnoldi), the
    layer's singular values, the margin to the stability region, the bound on h, γ for Euler. Under a field's norm nothing else
    gives the block's bound, nor, under IMEX, its layers' amplification (but where the Jacobian is normal, see `step_bound`). A
    block that is called several times is measured at each call.

    The network is put in evaluation mode meanwhile, and states are computed again instead of kept: large batches go part by
    part, in less memory than the network's own forward and backward pass. Raises ValueError where there is no block, for
    non-finite x or x on another device, ``iterations`` below 1, where no block is called or one runs only where autograd records, for a step size of 0, for a network that draws random numbers in evaluation
    mode, for one that was made in inference mode, and where a block's state becomes non-finite (the message names the layer).
    A network in half precision is measured as a copy in float32, a compiled one as it was written.
    """
    require_count("iterations", iterations)
    network = written(network)
    require_readable(network, x)
    network, x = _precise(network, recorded(network, x))
    blocks: dict[nn.Module, str] = {}
    for name, block in named_blocks(network):
        blocks.setdefault(block, cleaned(name) or "0")
    if not blocks:
        raise ValueError(
            f"{type(network).__name__} holds no keelnet Block; for an ordinary network use"
            " kn.analysis.diagnose(module, x)"
        )
    rows: list[BlockStability] = []
    depending: dict[str, list[BlockStability]] = {NORMED: [], TOGETHER: []}
    calls: dict[nn.Module, int] = {}

    def look(call: Call) -> None:
        assert isinstance(call.part, Block)
        count = calls[call.part] = calls.get(call.part, 0) + 1
        name = blocks[call.part] + (f" (call {count})" if count > 1 else "")
        try:
            y = call.y.float() if call.y.dtype in NARROW else call.y  # as under autocast
            rows.append(_measured(name, call.part, y, layers, iterations))
        except RuntimeError as error:
            if not call.recording:
                raise
            raise ValueError(
                f"block {name} cannot run where autograd does not record ({first_line(error)}); take derivatives within its"
                " forward under torch.enable_grad()"
            ) from error
        why = _dependence(call.part.integrator, call.part.field)
        if why is not None:
            depending[why].append(rows[-1])

    with evaluating(network):
        recording = require_repeatable(network, x)
        visit(network, blocks, x, look, again=True, recording=recording)
    missed = [name for block, name in blocks.items() if block not in calls]
    if not rows:
        raise ValueError(
            f"{', '.join(missed)} got no tensor of floating-point numbers while the network read x"
        )
    notes = [f"{listed(missed)}: not called while the network read x, so not measured"] * bool(missed)  # fmt: skip
    seen = (_notes(why, found) for why, found in depending.items())
    return StabilityReport(tuple(rows), (*notes, *chain(*seen)))


def _precise(network: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """Half precision hides where an iteration ends; a copy in float32 has the same weights."""
    halves = (torch.float16, torch.bfloat16)
    if not any(own.dtype in halves for own in chain(network.parameters(), network.buffers())):
        return network, x
    wide = copied(network, {}).float()
    return wide, x.float() if x.is_floating_point() else x


def _measured(
    name: str, block: Block, y: Tensor, layers: Layers, iterations: int
) -> BlockStability:
    path = Path.of(block, y)
    kept = invariants(path, y)
    back = kept.returns(y.dtype)
    growth = growth_of(lambda part: PathDerivative(path, part, back), y, iterations)
    row = BlockStability(
        name,
        f"{type(block.integrator).__name__}, {type(block.field).__name__}",
        block.depth,
        growth.largest,
        block.step_size,
        smallest=growth.smallest,
        converged=growth.converged,
        least_converged=growth.least_converged,
        sample=growth.sample,
        energy_deviation=kept.energy_deviation,
        energy_drift=kept.energy_drift,
        reversal_error=kept.reversal_error,
        integrator=block.integrator,
    )
    return _with_layers(_with_bound(row, path), path, y, layers, iterations)


def _with_bound(row: BlockStability, path: Path) -> BlockStability:
    """What the spectra of the kernels tell, where they are known; a layer at a time, since a symbol is large."""
    spectra = [_known_spectrum(path, layer) for layer in range(path.depth)]
    known = [each for each in spectra if each is not None]
    if not known:
        return row
    method = path.integrator
    if isinstance(method, IMEX) and not method.suffices(path.field):
        return row
    found = [answered(method.largest_steps, each) for each in known]
    rates = [answered(method.amplification, path.h, each) for each in known]
    if any(each is None for each in (*found, *rates)):
        return row
    steps = [float(each.min()) for each in found if each is not None]
    layer = int(np.argmin(steps))
    row = replace(
        row,
        step_bound=steps[layer],
        bound_layer=layer,
        amplification=max(float(each.max()) for each in rates if each is not None),
        reach=_orientation(path.field),
        damping=_damping(path, known),
    )
    return _of_explicit_half(row) if isinstance(method, IMEX) else row


def _of_explicit_half(row: BlockStability) -> BlockStability:
    """Under IMEX it tells where no layer grows, not where one does: there L may hold it."""
    assert row.amplification is not None
    holds = row.amplification <= 1 + TOLERANCE
    if row.step_bound == 0:
        row = replace(row, step_bound=None, bound_layer=None)
    return row if holds else replace(row, amplification=None)


def _known_spectrum(path: Path, layer: int) -> Complex | None:
    theta = {name: value[layer : layer + 1] for name, value in path.controls.items()}
    spectrum = path.field.spectrum(theta)
    return None if spectrum is None else numbers(spectrum)


def _damping(path: Path, spectra: list[Complex]) -> float | None:
    """γ for Euler; of an antisymmetric field its own, which f' multiplies."""
    if not isinstance(path.integrator, Euler):
        return None
    eigenvalues = np.concatenate([each.ravel() for each in spectra])
    if not isinstance(path.field, AntisymmetricField):
        return euler_damping(path.h, eigenvalues)
    least = euler_damping(path.h, eigenvalues - eigenvalues.real)
    return None if least is None else least / slope_of(path.field.activation)


def _with_layers(
    row: BlockStability, path: Path, y: Tensor, layers: Layers, iterations: int
) -> BlockStability:
    if layers is None:
        return row
    wanted = _wanted(layers, path.depth)
    one = y[row.sample : row.sample + 1]
    found = []
    with torch.no_grad():
        state = path.begin(one)
        for layer, after in enumerate(path.states(state, range(path.depth))):
            if layer in wanted:
                found.append(layer_stability(path, state, layer, iterations))
            state = after
    course = growth_by_layer(path, one)
    row = replace(row, layers=tuple(found), course=tuple(map(tuple, np.asarray(course).tolist())))
    blind = row.amplification is None and _dependence(path.integrator, path.field) is not None
    return _with_bound_of_layers(row) if blind else row


def _with_bound_of_layers(row: BlockStability) -> BlockStability:
    """Where the spectra of the kernels tell nothing, what those of the layers at their states do."""
    known = [layer for layer in row.layers if not math.isnan(layer.amplification)]
    if not known:
        return row
    bounded = [layer for layer in known if not math.isnan(layer.step_bound)]
    if row.step_bound is None and bounded:
        tightest = min(bounded, key=lambda layer: layer.step_bound)
        row = replace(row, step_bound=tightest.step_bound, bound_layer=tightest.layer)
    reach = None if all(layer.certain for layer in known) else FOUND
    return replace(
        row,
        amplification=max(layer.amplification for layer in known),
        reach=LOOKED_AT if len(known) < row.depth else reach,
    )


def _orientation(field: Dynamics) -> str | None:
    """Why the spectrum at the largest f' bounds that of no other; None where it does."""
    if not isinstance(field, Bender):
        return None
    activation = activation_from(field.activation)
    if isinstance(field, SingleField):
        return ORIENTATION if activation.name != "identity" else None
    return None if activation.rising else NEGATIVE


def _is_normed(field: Dynamics) -> bool:
    return isinstance(field, Bender) and field.norm is not None


def _dependence(method: Integrator, field: Dynamics) -> str | None:
    """Why the spectra of its kernels may not tell whether a layer grows; None where they do."""
    if _is_normed(field):
        return NORMED
    return TOGETHER if isinstance(method, IMEX) else None


def _notes(why: str, rows: Sequence[BlockStability]) -> list[str]:
    """What a reader must know of blocks of which the spectra of the kernels do not tell."""
    blind = [row.name for row in rows if not row.layers and row.amplification is None]
    partly = [row.name for row in rows if row.reach == LOOKED_AT]
    notes = []
    if blind:
        notes.append(
            f'{listed(blind)}: {why}: ask for layers="all"; without them the verdict goes by the growth'
        )
    if partly:
        notes.append(f"{listed(partly)}: {why}: what is given is of the layers that were looked at")
    return notes


def _wanted(layers: int | Sequence[int] | Literal["all"], depth: int) -> set[int]:
    if isinstance(layers, (int, Integral)):
        require_count("layers", layers)
        return set(np.linspace(0, depth - 1, min(layers, depth)).round().astype(int).tolist())
    if isinstance(layers, str) and layers == "all":
        return set(range(depth))
    try:
        wanted = {index(each) for each in layers}  # also of an array
    except TypeError:
        wanted = {-1}
    if not all(0 <= each < depth for each in wanted):
        raise ValueError(
            f'layers must be "all", how many, or numbers from 0 to {depth - 1} in a list; got {layers!r}'
        )
    return wanted
