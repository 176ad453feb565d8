"""Any PyTorch network: find its residual blocks and measure how much each lets a perturbation grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from keelnet.analysis.calls import NARROW, Call
from keelnet.analysis.conditions import (
    not_finite,
    recorded,
    require_apart,
    require_readable,
    require_repeatable,
    require_unquantised,
    require_unscripted,
)
from keelnet.analysis.derivatives import differentiated
from keelnet.analysis.differences import moves_apart, require_graph
from keelnet.analysis.growths import Growth, growth_of
from keelnet.analysis.layers import (
    LayerStability,
    as_layer,
    euler_spectrum,
    jacobian_at,
    rounding_of,
)
from keelnet.analysis.reports import BlockStability, StabilityReport
from keelnet.analysis.search import residual_blocks
from keelnet.analysis.tables import listed
from keelnet.analysis.visits import (
    cleaned,
    evaluating,
    measuring,
    named_parts,
    visit,
    written,
)
from keelnet.dynamics.kernels import require_count
from keelnet.propagation import Euler

SETTLED = 2e-3  # of a growth: a block is left when five iterations raise it by less


@measuring()
def diagnose(
    module: nn.Module,
    x: Tensor,
    blocks: Sequence[str] | None = None,
    spectra: bool = False,
    iterations: int = 30,
) -> StabilityReport:
    """The growth of every residual block of an ordinary network at the inputs x (samples, …); tokens are whole numbers.

    A residual block is a submodule whose output is its own input plus something of it: its graph has a way
    from output to input through sums (of which another term depends on the input, too), factors of one number, activations
    and norms alone, which passes no residual block inside, or which ends such a block after a sum of its own: the growth of
    what lies around a block includes that block's. It may be without parameters. Of a block of several tensors the
    first that it is given and the first of that shape that it answers are meant (`Call`); the others are held.
    Or name them by their dotted names in ``blocks``; such a block may change the shape. Each is taken for a step y + F(y) of
    Euler with h = 1: the largest and the least singular value of its Jacobian at the features that reach it, the worst of
    the samples. A block that is called several times is measured at each call. ``spectra``
    adds the spectrum of ∂F/∂y of each, the margin of 1 + λ to the unit circle, and the largest h for which y + h F(y)
    would not grow.

    A block whose weights, output or derivative are not finite is reported with its reason, and what follows as not measured.
    Half-precision blocks are measured in float32, compiled ones as they were written. Of a part that autograd can
    differentiate but once (a custom Function, a kernel of an extension) growth is exact up to 400 numbers a sample, else a
    lower bound. The module is put in evaluation mode meanwhile (dropout off, running
    statistics). Raises ValueError where no block is found, for unknown names, where weights outside of blocks are not finite,
    for x that is not finite or on another device or that the module cannot read, and for modules that draw random
    numbers in evaluation mode, mix the samples, or are hidden from autograd (quantised, scripted, checkpointed with
    use_reentrant=True, under no_grad, made in inference mode).
    """
    given, module = module, written(module)
    require_readable(module, x)
    x = recorded(module, x)
    require_count("iterations", iterations)
    with evaluating(module):
        recording = require_repeatable(module, x)
        named = named_parts(given)  # its first forward may have built some
        _require_names(blocks, named)
        top = "0" if "0" not in named else type(module).__name__
        names = {part: cleaned(name) or top for name, part in module.named_modules()}
        if blocks is None:
            chosen, notes = residual_blocks(module, x, names, recording)
        else:
            chosen, notes = list(dict.fromkeys(named[cleaned(name)] for name in blocks)), []
            for block in chosen:
                require_unscripted(f"block {names[block]} is scripted, and", block)
        require_unquantised((names[part], part) for block in chosen for part in block.modules())
        _require_finite_outside(module, chosen)
        rows, apart = _looked_at(module, chosen, x, names, spectra, iterations, recording)
    lost = [names[part] for part in chosen if names[part] not in rows]
    if lost:
        raise ValueError(
            f"{', '.join(lost)} got no tensor of floating-point numbers while the module read x"
        )
    found = _blamed(rows, chosen, names)
    return StabilityReport(tuple(found), (*notes, *_notes(chosen, apart)))


def _require_names(blocks: Sequence[str] | None, named: dict[str, nn.Module]) -> None:
    if blocks is None:
        return
    if isinstance(blocks, str) or not all(isinstance(name, str) for name in blocks) or not blocks:
        raise ValueError(
            'blocks must be a list of dotted names, such as ["layer3.1"], or left out to search for residual'
            f" blocks; got {blocks!r}"
        )
    unknown = [name for name in blocks if cleaned(name) not in named]
    if unknown:
        near = get_close_matches(unknown[0], named)
        hint = f"did you mean {' or '.join(near)}?" if near else "see named_modules()"
        raise ValueError(f"no submodule is named {', '.join(unknown)}; {hint}")


def _require_finite_outside(module: nn.Module, chosen: Sequence[nn.Module]) -> None:
    inside = {id(own) for block in chosen for own in (*block.parameters(), *block.buffers())}
    outside = [
        words for name, words in not_finite(module) if id(_tensor(module, name)) not in inside
    ]
    if outside:
        raise ValueError(
            f"{listed(outside)}, outside of every residual block, so there is nothing to measure; take weights from"
            " before they were lost"
        )


def _tensor(module: nn.Module, name: str) -> Tensor:
    owner, _, own = name.rpartition(".")
    found: Tensor = getattr(module.get_submodule(owner), own)
    return found


def _looked_at(
    module: nn.Module,
    chosen: Sequence[nn.Module],
    x: Tensor,
    names: dict[nn.Module, str],
    spectra: bool,
    iterations: int,
    recording: bool,
) -> tuple[dict[str, BlockStability], list[str]]:
    """Rows by name, in the order of the calls, and names of blocks that do not move as their derivatives say.

    Where blocks get other tensors, too, or cannot do with the first row of their features, one sample at a time.
    """
    rows: dict[str, BlockStability] = {}
    apart: list[str] = []
    alone = True

    def measured(sample: int | None) -> None:
        calls: dict[nn.Module, int] = {}

        def look(call: Call) -> None:
            nonlocal alone
            alone = alone and (sample is not None or call.alone)
            if not alone:
                return
            if not call.divisible:
                alone = sample is not None
                if not alone:
                    return
                call = replace(call, together=True)
            count = calls[call.part] = calls.get(call.part, 0) + 1
            name = names[call.part] + (f" (call {count})" if count > 1 else "")
            row = _measured(name, call, spectra, iterations, single=len(x) == 1)
            if name not in rows and row.obstacle is None and moves_apart(call.precise()):
                apart.append(name)
            row = row if sample is None else replace(row, sample=sample)
            rows[name] = row if name not in rows else _worse(rows[name], row)

        some = x if sample is None else x[sample : sample + 1]
        visit(module, chosen, some, look, again=True, recording=recording, replayed=True)

    measured(None if len(x) > 1 else 0)
    if not alone:
        rows.clear()
        apart.clear()
        alone = True
        for sample in range(len(x)):
            measured(sample)
    return rows, apart


def _blamed(
    rows: dict[str, BlockStability], chosen: Sequence[nn.Module], names: dict[nn.Module, str]
) -> list[BlockStability]:
    """A block around one that is not finite is not to blame, and there is nothing to measure of it."""
    lost = {_bare(row) for row in rows.values() if math.isinf(row.growth)}
    around = {
        names[block]
        for block in chosen
        if any(names[part] in lost for part in block.modules() if part is not block)
    }
    return [
        replace(row, growth=math.nan, smallest=None)
        if math.isinf(row.growth) and _bare(row) in around
        else row
        for row in rows.values()
    ]


def _bare(row: BlockStability) -> str:
    """The block's name, whichever call of it was measured."""
    return row.name.partition(" (call ")[0]


def _worse(one: BlockStability, other: BlockStability) -> BlockStability:
    """Of one block at two samples."""
    if math.isnan(one.growth) or math.isnan(other.growth):
        return one if math.isnan(other.growth) else other
    assert one.smallest is not None and other.smallest is not None
    most = other if other.growth > one.growth else one
    least = other if other.smallest < one.smallest else one
    return replace(
        most,
        smallest=least.smallest,
        least_converged=least.least_converged,
        converged=one.converged and other.converged,
    )


def _measured(
    name: str, call: Call, spectra: bool, iterations: int, single: bool
) -> BlockStability:
    kind = type(call.part).__name__
    bad = next(not_finite(call.part, name), None)
    if bad is not None:
        return _not_finite(name, kind, bad[1])
    if not bool(call.y.isfinite().all()):
        reason = "what reaches it is not finite"
        return BlockStability(name, kind, 1, math.nan, obstacle=reason, integrator=Euler())
    shape = _shape_of_one(name, call, single)
    if shape is None:
        size = float(call.y.abs().max())
        return _not_finite(
            name, kind, f"its output is not finite, what reaches it is (up to {size:.3g})"
        )
    step = shape == call.y[:1].shape
    call = call.precise()
    require_graph(name, call)
    growth = growth_of(lambda some: differentiated(call, some), call.y, iterations, SETTLED)
    if not math.isfinite(growth.largest):
        return _not_finite(name, kind, "its derivative is not finite")
    row = BlockStability(
        name,
        kind,
        1,
        growth.largest,
        smallest=growth.smallest,
        converged=growth.converged,
        least_converged=growth.least_converged,
        sample=growth.sample,
        integrator=Euler() if step else None,
    )
    if not (spectra and step):
        return row
    layer = _as_step(call, call.y[growth.sample : growth.sample + 1], growth)
    return replace(row, layers=(layer,), course=((layer.largest, layer.smallest),))


def _shape_of_one(name: str, call: Call, single: bool) -> torch.Size | None:
    """Of the output for one sample; None where an output is not finite. Raises ValueError where samples mix."""
    with torch.no_grad():
        whole, alone = call(call.y.clone()), call(call.y[:1].clone())
    if not bool(whole.isfinite().all()):
        return None
    require_apart(name, whole, alone, single)
    return alone.shape


def _not_finite(name: str, kind: str, reason: str) -> BlockStability:
    return BlockStability(
        name, kind, 1, math.inf, smallest=0.0, obstacle=reason, integrator=Euler()
    )


def _as_step(call: Call, y: Tensor, growth: Growth) -> LayerStability:
    """y + F(y) as a step of Euler with h = 1, at one sample."""
    matrix = jacobian_at(lambda some: call(some.clone()) - some, y)
    spectrum, certain = euler_spectrum(matrix, rounding_of(y, read_off=True), h=1.0)
    ends, flags = (growth.largest, growth.smallest), (growth.converged, growth.least_converged)
    return as_layer(0, spectrum, ends, flags, Euler(), 1.0, certain)


def _notes(chosen: Sequence[nn.Module], apart: Sequence[str]) -> list[str]:
    """What a reader must know of how it was measured."""
    inside = {part for block in chosen for part in block.modules()}
    notes = []
    if apart:
        notes.append(
            f"{listed(apart)}: a small change of the input moves the output otherwise than autograd says, by more than 10 %;"
            " a part of the forward is hidden from it (no_grad, detach) or jumps there, and is missing in the growth"
        )
    unused = [
        each
        for each in inside
        if isinstance(each, _BatchNorm)
        and type(each.running_mean) is Tensor  # not of a lazy one that is called nowhere
        and type(each.running_var) is Tensor
        # Not by their counter: where old or converted weights have none it stays 0.
        and bool((each.running_mean == 0).all() and (each.running_var == 1).all())
    ]
    if unused:
        notes.append(
            f"batch norms that have seen no batch yet: {len(unused)}. Their running statistics are 0 and 1, so growth is that"
            " without normalisation; let the network read some batches in train() first"
        )
    if any(own.dtype in NARROW for block in chosen for own in block.parameters()):
        notes.append("blocks of half precision were measured in float32")
    return notes
