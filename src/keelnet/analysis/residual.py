"""Any PyTorch network: find its residual blocks and measure how much each lets a perturbation grow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from keelnet.analysis.derivatives import largest_growth
from keelnet.analysis.stability import (
    BlockStability,
    StabilityReport,
    evaluating,
    inputs_of,
    require_finite,
)

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
SHAPES = ("View", "Reshape", "Transpose", "Permute", "Clone", "Alias", "UnsafeView", "Unsqueeze")


def diagnose(module: nn.Module, x: Tensor, blocks: Sequence[str] | None = None) -> StabilityReport:
    """The growth of every residual block of an ordinary network at the inputs x.

    A residual block is a submodule whose output is its own input plus something: its graph has a way
    from output to input through sums, activations and norms alone, and no submodule of it has one.
    Or name them by their dotted names in ``blocks``. For each: σ_max of its Jacobian at the
    features that reach it, by power iteration, in evaluation mode. Raises ValueError where none is
    found, for unknown names, and for blocks that do not keep their shape.
    """
    require_finite(x)
    named = dict(module.named_modules())
    unknown = [name for name in blocks or () if name not in named]
    if unknown:
        raise ValueError(f"no submodule is named {', '.join(unknown)}; see named_modules()")
    with evaluating(module):
        candidates = [named[name] for name in blocks] if blocks else _compound(module)
        seen = inputs_of(module, candidates, x)
        chosen = [part for part in candidates if part in seen]
        if blocks and len(chosen) < len(blocks):
            lost = [name for name in blocks if named[name] not in seen]
            raise ValueError(f"{', '.join(lost)} did not get one tensor while the module read x")
        if not blocks:
            chosen = _innermost([part for part in chosen if _is_residual(part, seen[part])])
        if not chosen:
            raise ValueError(
                f"no residual block was found in {type(module).__name__}; name them with"
                " blocks=[…], by the dotted names of named_modules()"
            )
        names = {part: name for name, part in named.items()}
        rows = [_measured(names[part], part, seen[part]) for part in chosen]
    return StabilityReport(tuple(rows))


def _compound(module: nn.Module) -> list[nn.Module]:
    """Submodules that have parameters and parts of their own, in the order of definition."""
    return [
        part
        for part in module.modules()
        if next(part.children(), None) is not None and next(part.parameters(), None) is not None
    ]


def _innermost(parts: list[nn.Module]) -> list[nn.Module]:
    """Those that hold no other of them."""
    chosen = set(parts)
    return [
        part
        for part in parts
        if not any(inner in chosen for inner in part.modules() if inner is not part)
    ]


def _is_residual(part: nn.Module, y: Tensor) -> bool:
    """Whether a way from the output to the input runs through at least one sum and no weights."""
    if not y.is_floating_point():
        return False
    leaf = y[:1].clone().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        value = part(leaf)
    if not isinstance(value, Tensor) or value.shape != leaf.shape or value.grad_fn is None:
        return False
    return _reaches(value.grad_fn, leaf, summed=False)


def _reaches(node: torch.autograd.graph.Node, leaf: Tensor, summed: bool) -> bool:
    pending = [(node, summed)]
    while pending:
        current, has_sum = pending.pop()
        variable = getattr(current, "variable", None)
        if variable is leaf and has_sum:
            return True
        name = current.name().rsplit("::", 1)[-1]
        if not name.startswith((*CARRIERS, *SHAPES)) or name.startswith(("Addmm", "Addbmm")):
            continue
        has_sum = has_sum or name.startswith("AddBackward")
        pending += [(after, has_sum) for after, _ in current.next_functions if after is not None]
    return False


def _measured(name: str, part: nn.Module, y: Tensor) -> BlockStability:
    with torch.no_grad():
        value = part(y)
    if not isinstance(value, Tensor) or value.shape != y.shape:
        raise ValueError(f"block {name} does not keep the shape of its input, so it is no step")
    growth = float(largest_growth(part, y).max())
    return BlockStability(name or "0", type(part).__name__, 1, growth)
