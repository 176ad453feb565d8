"""Search: which parts of an ordinary network are residual blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils import _pytree as trees

from keelnet.analysis.calls import Call
from keelnet.analysis.conditions import is_quantised, require_unquantised
from keelnet.analysis.derivatives import exact_attention
from keelnet.analysis.sums import depends, is_sum
from keelnet.analysis.tables import listed
from keelnet.analysis.visits import visit
from keelnet.networks.blocks import Block


def residual_blocks(
    module: nn.Module, x: Tensor, names: dict[nn.Module, str]
) -> tuple[list[nn.Module], list[str]]:
    """The residual blocks, inner ones first, and what is to be said of others; raises ValueError where there are none.

    A part around others is one where its input goes past them: what arrives through theirs is theirs.
    """
    residual: list[nn.Module] = []
    keeping: list[str] = []

    def look(call: Call) -> None:
        if call.part is not module and not isinstance(call.part, nn.Sequential):
            keeping.append(names[call.part])
        # What is inside has been looked at before: only one block's graph is alive at a time.
        inner = [part for part in call.part.modules() if part in residual]
        if inner and type(call.part).forward is nn.Sequential.forward:
            return  # nothing goes past
        if _is_residual(call, names[call.part], inner):
            residual.append(call.part)

    visit(module, _compound(module), x[:1], look, keeping=True)
    if not residual:
        require_unquantised((name, part) for part, name in names.items())
        candidates = f" These keep the shape of their input: {listed(keeping)}." if keeping else ""
        raise ValueError(
            f"no residual block was found in {type(module).__name__}; name them with blocks=[…], by the dotted names of"
            f" named_modules().{candidates} Looked for were submodules that answer with their input plus something of it,"
            " without weights on the way of the input; a sum in the forward of the whole network belongs to no submodule"
        )
    return residual, _notes(residual, names)


def _notes(residual: Sequence[nn.Module], names: dict[nn.Module, str]) -> list[str]:
    """What is not looked at though it may be a block."""
    found = set(residual)
    innermost = [block for block in residual if found.isdisjoint(_below(block))]
    inside = {part for block in innermost for part in block.modules()}
    kinds = {type(block) for block in residual}
    others = [
        name
        for part, name in names.items()
        if type(part) in kinds
        and part not in found
        and part not in inside
        and not inside.intersection(part.modules())
    ]
    quantised = [part for part in names if is_quantised(part)]
    packed = {part for holder in quantised for part in _below(holder)}
    hidden = [names[part] for part in quantised if part not in packed]
    notes = []
    if others:
        notes.append(
            f"not looked at: {listed(others)}, of the same class as blocks above, but with weights on the way of the input"
            " or another shape; blocks=[…] measures them, too"
        )
    if hidden:
        notes.append(
            f"not looked at: what holds {listed(hidden)}, which is quantised and has no derivative"
        )
    return notes


def _below(block: nn.Module) -> Iterator[nn.Module]:
    return (part for part in block.modules() if part is not block)


def _compound(module: nn.Module) -> list[nn.Module]:
    """Submodules that may hold a sum: all but torch's own single operations, in the order of definition.

    What lies within a keelnet block is its field, which runs with other weights in every layer.
    """
    blocks = [part for part in module.modules() if isinstance(part, Block)]
    fields = {part for block in blocks for part in block.modules() if part is not block}
    return [
        part
        for part in module.modules()
        if part not in fields
        and (
            next(part.children(), None) is not None
            or not type(part).__module__.startswith("torch.")
        )
    ]


def _is_residual(call: Call, name: str, inner: Sequence[nn.Module]) -> bool:
    leaf = call.y[:1].clone().requires_grad_()
    try:
        with torch.enable_grad(), exact_attention(), _cut(inner, leaf) as closed:
            value = call(leaf.clone())  # it may change its input in place
    except (RuntimeError, TypeError, IndexError) as error:
        if inner:  # such as a container that changes views in place, which autograd refuses
            return False
        raise ValueError(
            f"{name} could be called once, but not again with the same input ({error}); if it keeps a state, such as a"
            " cache of keys (use_cache), switch that off"
        ) from error
    return value.shape == leaf.shape and is_sum(value, leaf, closed)


@contextmanager
def _cut(parts: Sequence[nn.Module], leaf: Tensor) -> Iterator[set[Node]]:
    """Meanwhile graphs begin anew behind what these parts answer, so that theirs are not kept; the nodes where they do.

    Those alone whose answers depend on the leaf.
    """
    begun: set[Node] = set()

    def begin(answer: object) -> object:
        if not isinstance(answer, Tensor) or answer.grad_fn is None:
            return answer
        if not depends(answer, leaf, begun):
            return answer.detach()
        fresh = answer.detach().requires_grad_().clone()  # it may be changed in place
        assert fresh.grad_fn is not None
        begun.add(fresh.grad_fn)
        return fresh

    def cut(part: nn.Module, args: object, answer: object) -> object:
        return trees.tree_map(begin, answer)

    handles = [part.register_forward_hook(cut) for part in parts]
    try:
        yield begun
    finally:
        for handle in handles:
            handle.remove()
