"""Any PyTorch network: find its residual blocks and measure how much each lets a perturbation grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from keelnet.analysis.derivatives import differentiated, exact_attention
from keelnet.analysis.growths import Growth, growth_of
from keelnet.analysis.layers import LayerStability, as_layer, jacobian_at
from keelnet.analysis.reports import BlockStability, StabilityReport
from keelnet.analysis.spectra import spectrum_of
from keelnet.analysis.visits import evaluating, require_readable, require_repeatable, visit
from keelnet.propagation import Euler

# Operations that may stand on the way of the identity: sums, shapes, activations and norms after the
# sum. What multiplies by weights (Addmm, Mm, Convolution, …) belongs to a branch.
CARRIERS = (
    "Add",
    "Relu",
    "Gelu",
    "Silu",
    "Elu",
    "Tanh",
    "Hardtanh",
    "LeakyRelu",
    "NativeLayerNorm",
)
SETTLED = 2e-3  # of a growth: a block is left when five iterations raise it by less
SHAPES = ("View", "Reshape", "Transpose", "Permute", "Clone", "Alias", "UnsafeView", "Unsqueeze")


def diagnose(
    module: nn.Module,
    x: Tensor,
    blocks: Sequence[str] | None = None,
    spectra: bool = False,
    iterations: int = 30,
) -> StabilityReport:
    """The growth of every residual block of an ordinary network at the inputs x (samples, …).

    A residual block is a submodule whose output is its own input plus something of it: its graph has a way
    from output to input through sums (of which another term depends on the input, too), activations and norms
    alone, and no submodule of it has one. It may be without parameters.
    Or name them by their dotted names in ``blocks``. Each is taken for a step y + F(y) of Euler with h = 1: the largest
    and the least singular value of its Jacobian at the features that reach it, the worst of the samples. ``spectra``
    adds the spectrum of ∂F/∂y of each, the margin of 1 + λ to the unit circle, and the largest h for which y + h F(y)
    would not grow.

    The module is put in evaluation mode meanwhile. Raises ValueError where no block is found, for unknown names, for
    blocks that do not keep their shape, for x that is not finite or on another device, and for modules that draw random
    numbers in evaluation mode.
    """
    require_readable(module, x)
    named = dict(module.named_modules())
    unknown = [name for name in blocks or () if name not in named]
    if unknown:
        raise ValueError(f"no submodule is named {', '.join(unknown)}; see named_modules()")
    with evaluating(module):
        require_repeatable(module, x)
        chosen = [named[name] for name in blocks] if blocks else _found(module, x)
        names = {part: name for name, part in named.items()}
        rows: list[BlockStability] = []

        def look(part: nn.Module, y: Tensor) -> None:
            rows.append(_measured(names[part] or "0", part, y, spectra, iterations))

        visit(module, chosen, x, look)
    lost = [
        names[part] for part in chosen if (names[part] or "0") not in {row.name for row in rows}
    ]
    if lost:
        raise ValueError(f"{', '.join(lost)} did not get one tensor while the module read x")
    return StabilityReport(tuple(rows))


def _found(module: nn.Module, x: Tensor) -> list[nn.Module]:
    """The innermost residual blocks; raises ValueError where there are none."""
    residual: list[nn.Module] = []

    def look(part: nn.Module, y: Tensor) -> None:
        # What is inside has been looked at before: only one block's graph is alive at a time.
        outer = any(inner in residual for inner in part.modules())
        if not outer and _is_residual(part, y):
            residual.append(part)

    visit(module, _compound(module), x[:1], look, keeping=True)
    if not residual:
        raise ValueError(
            f"no residual block was found in {type(module).__name__}; name them with"
            " blocks=[…], by the dotted names of named_modules()"
        )
    return residual


def _compound(module: nn.Module) -> list[nn.Module]:
    """Submodules that may hold a sum: all but torch's own single operations, in the order of definition."""
    return [
        part
        for part in module.modules()
        if next(part.children(), None) is not None or not type(part).__module__.startswith("torch.")
    ]


def _is_residual(part: nn.Module, y: Tensor) -> bool:
    """Whether a way from the output to the input runs through at least one sum and no weights."""
    if not y.is_floating_point():
        return False
    leaf = y[:1].clone().requires_grad_()
    with torch.enable_grad(), exact_attention():
        value = part(leaf.clone())  # it may change its input in place
    if not isinstance(value, Tensor) or value.shape != leaf.shape or value.grad_fn is None:
        return False
    return _reaches(value.grad_fn, leaf, summed=False)


def _reaches(node: Node, leaf: Tensor, summed: bool) -> bool:
    depends = _dependent(node, leaf)
    pending = [(node, summed)]
    while pending:
        current, has_sum = pending.pop()
        if getattr(current, "variable", None) is leaf and has_sum:
            return True
        name = current.name().rsplit("::", 1)[-1]
        if not name.startswith((*CARRIERS, *SHAPES)) or name.startswith(("Addmm", "Addbmm")):
            continue
        terms = [after for after, _ in current.next_functions if after in depends]
        # x plus a constant, such as an encoding of positions, is no step.
        has_sum = has_sum or (name.startswith("AddBackward") and len(terms) > 1)
        pending += [(after, has_sum) for after in terms]
    return False


def _dependent(node: Node, leaf: Tensor) -> set[Node]:
    """The nodes of the graph behind ``node`` whose values depend on the leaf."""
    order, seen, pending = [], {node}, [node]
    while pending:
        current = pending.pop()
        order.append(current)
        for after, _ in current.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                pending.append(after)
    users: dict[Node, list[Node]] = {}
    for current in order:
        for after, _ in current.next_functions:
            if after is not None:
                users.setdefault(after, []).append(current)
    found = {each for each in order if getattr(each, "variable", None) is leaf}
    pending = list(found)
    while pending:
        for user in users.get(pending.pop(), []):
            if user not in found:
                found.add(user)
                pending.append(user)
    return found


def _measured(
    name: str, part: nn.Module, y: Tensor, spectra: bool, iterations: int
) -> BlockStability:
    with torch.no_grad():
        value = part(y[:1].clone())
    if not isinstance(value, Tensor) or value.shape != y[:1].shape:
        raise ValueError(f"block {name} does not keep the shape of its input, so it is no step")
    growth = growth_of(lambda some: differentiated(part, some), y, iterations, SETTLED)
    row = BlockStability(
        name,
        type(part).__name__,
        1,
        growth.largest,
        smallest=growth.smallest,
        converged=growth.converged,
        least_converged=growth.least_converged,
        sample=growth.sample,
        integrator=Euler(),
    )
    if not spectra:
        return row
    return replace(row, layers=(_as_step(part, y[growth.sample : growth.sample + 1], growth),))


def _as_step(part: nn.Module, y: Tensor, growth: Growth) -> LayerStability:
    """y + F(y) as a step of Euler with h = 1, at one sample."""
    spectrum = spectrum_of(jacobian_at(lambda some: part(some) - some, y))
    return as_layer(0, spectrum, (growth.largest, growth.smallest), Euler(), 1.0)
