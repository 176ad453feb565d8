"""Sums: whether a value is its input plus something of it, by the graph that computed it."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

# Operations that may stand on the way of the identity: sums, shapes, activations and norms after the
# sum. What multiplies by weights (Addmm, Mm, Convolution, …) belongs to a branch.
SUMS = ("Add", "Sub", "Rsub", "Addcmul", "Addcdiv")
SUBTRAHENDS = {"Sub": 1, "Rsub": 0}  # which term is taken away: F(x) − x is not x plus something
ACTIVATIONS = (
    *("Relu", "LeakyRelu", "PreluKernel", "Elu", "Celu", "Gelu", "Silu", "Mish"),
    *("Hardswish", "Softplus", "Sigmoid", "Tanh", "Hardtanh"),
)
NORMS = ("NativeLayerNorm", "NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm")
CARRIERS = (*SUMS, *ACTIVATIONS, *NORMS, "ToCopy")
SHAPES = (
    *("View", "Reshape", "Transpose", "Permute", "Clone", "Alias", "UnsafeView", "Unsqueeze"),
    "BackwardHookFunction",  # torch's identity at both ends of a module with hooks
)
PRODUCTS = ("Addmm", "Addbmm", "Addmv", "Addr")  # sums by their name alone
SCALINGS = ("Mul", "Div")  # by one number


def is_sum(
    value: Tensor, leaf: Tensor, closed: Set[Node] = frozenset(), passed: Set[Node] = frozenset()
) -> bool:
    """Whether a way from ``value`` to ``leaf`` runs through at least one sum, no weights and no node of ``closed``.

    Another term of that sum depends on the leaf, too: x plus a constant, such as an encoding of positions, is no step.
    ``closed``: nodes that depend on the leaf, whatever lies behind them. From those of ``passed`` a way without weights
    goes on to the leaf, so that a sum in front of them is enough.
    """
    return _arrives(value, leaf, closed, passed, summed=False)


def is_carried(
    value: Tensor, leaf: Tensor, closed: Set[Node] = frozenset(), passed: Set[Node] = frozenset()
) -> bool:
    """Whether a way without weights leads from ``value`` to ``leaf``, sums or none; the sets as in `is_sum`."""
    return _arrives(value, leaf, closed, passed, summed=True)


def _arrives(
    value: Tensor, leaf: Tensor, closed: Set[Node], passed: Set[Node], summed: bool
) -> bool:
    if value.grad_fn is None:
        return False
    dependent = _dependent(value.grad_fn, leaf, closed)
    pending: list[tuple[Any, bool]] = [(value.grad_fn, summed)]
    seen = set()
    while pending:
        current, summed = pending.pop()
        if summed and (current in passed or getattr(current, "variable", None) is leaf):
            return True
        if current in closed:
            continue
        name = current.name().rsplit("::", 1)[-1]
        terms = [after for after, _ in current.next_functions if after in dependent]
        if (current, summed) in seen or not _carries(name, current, len(terms)):
            continue
        seen.add((current, summed))
        summed = summed or (name.startswith(SUMS) and len(terms) > 1)
        kept = [after for after in _kept(name, current) if after in dependent]
        pending += [(after, summed) for after in kept]
    return False


def depends(value: Tensor, leaf: Tensor, closed: Set[Node] = frozenset()) -> bool:
    """Whether ``value`` depends on the leaf, or on a node of ``closed``, by its graph."""
    return value.grad_fn is not None and value.grad_fn in _dependent(value.grad_fn, leaf, closed)


def _kept(name: str, node: Node) -> list[Any]:
    """The terms that arrive with their own sign."""
    lost = next((n for kind, n in SUBTRAHENDS.items() if name.startswith(kind)), None)
    return [after for n, (after, _) in enumerate(node.next_functions) if n != lost]


def _carries(name: str, node: Any, terms: int) -> bool:
    if name.startswith(SCALINGS):
        factors = (getattr(node, "_saved_self", None), getattr(node, "_saved_other", None))
        return terms == 1 and any(
            isinstance(each, Tensor) and each.numel() == 1 for each in factors
        )
    return name.startswith((*CARRIERS, *SHAPES)) and not name.startswith(PRODUCTS)


def _dependent(node: Node, leaf: Tensor, closed: Set[Node]) -> set[Node]:
    """The nodes of the graph behind ``node`` whose values depend on the leaf or on ``closed``."""
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
    found = {each for each in order if getattr(each, "variable", None) is leaf or each in closed}
    pending = list(found)
    while pending:
        for user in users.get(pending.pop(), []):
            if user not in found:
                found.add(user)
                pending.append(user)
    return found
