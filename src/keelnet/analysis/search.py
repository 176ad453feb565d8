"""Search: which parts of an ordinary network are residual blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils import _pytree as trees

from keelnet.analysis.calls import REFUSALS, Call, answered, features_among
from keelnet.analysis.conditions import first_line, is_quantised, is_scripted, require_unquantised
from keelnet.analysis.derivatives import exact_attention
from keelnet.analysis.sums import depends, is_carried, is_sum
from keelnet.analysis.tables import listed
from keelnet.analysis.visits import visit
from keelnet.networks.blocks import Block


def residual_blocks(
    module: nn.Module, x: Tensor, names: dict[nn.Module, str], recording: bool = False
) -> tuple[list[nn.Module], list[str]]:
    """The residual blocks, inner ones first, and what is to be said of others; raises ValueError where there are none.

    A part around others is one where its input goes past them, or that adds to what one of them answers, as a layer of
    BERT does around its attention: what arrives through theirs alone is theirs. ``recording`` as for `visit`.
    """
    residual: list[nn.Module] = []
    keeping: list[str] = []
    unrecorded: dict[str, str] = {}

    def look(call: Call) -> None:
        if call.part is not module and not isinstance(call.part, nn.Sequential):
            keeping.append(names[call.part])
        # What is inside has been looked at before: only one block's graph is alive at a time.
        inner = [part for part in call.part.modules() if part in residual]
        if inner and type(call.part).forward is nn.Sequential.forward:
            return  # nothing goes past
        try:
            found = _is_residual(call, names[call.part], inner)
        except _UnrecordedError as reason:
            unrecorded[names[call.part]] = str(reason)
            return
        if found:
            residual.append(call.part)

    visit(module, _compound(module), x[:1], look, keeping=True, recording=recording)
    hidden = _hidden(names, residual, unrecorded)
    if not residual:
        require_unquantised((name, part) for part, name in names.items())
        candidates = f" These keep the shape of their input: {listed(keeping)}." if keeping else ""
        candidates += "".join(f" {note[0].upper()}{note[1:]}." for note in hidden)
        raise ValueError(
            f"no residual block was found in {type(module).__name__}; name them with blocks=[…], by the dotted names of"
            f" named_modules().{candidates} Looked for were submodules that answer with their input plus something of it,"
            " without weights on the way of the input; a sum in the forward of the whole network belongs to no submodule"
        )
    return residual, [*_others(residual, names), *hidden]


class _UnrecordedError(Exception):
    """A part runs, but not where autograd records."""


def _others(residual: Sequence[nn.Module], names: dict[nn.Module, str]) -> list[str]:
    """Which parts are like blocks that were found, but were not."""
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
    if not others:
        return []
    return [
        f"not looked at: {listed(others)}, of the same class as blocks above, but with weights on the way of the input"
        " or another shape; blocks=[…] measures them, too"
    ]


def _hidden(
    names: dict[nn.Module, str], residual: Sequence[nn.Module], unrecorded: dict[str, str]
) -> list[str]:
    """What cannot be looked into though it may be a block."""
    inside = {part for block in residual for part in block.modules()}
    quantised = _outermost(names, is_quantised)
    scripted = _outermost({p: name for p, name in names.items() if p not in inside}, is_scripted)
    notes = []
    if quantised:
        notes.append(
            f"not looked at: what holds {listed(quantised)}, which is quantised and has no derivative"
        )
    if scripted:
        notes.append(
            f"not looked at: {listed(scripted)}, which is scripted and cannot be looked into; put the nn.Module that it was"
            " made of in its place"
        )
    if unrecorded:
        reason = next(iter(unrecorded.values()))
        notes.append(
            f"not looked at: {listed(list(unrecorded))}, which does not run where autograd records ({reason})"
        )
    return notes


def _outermost(names: dict[nn.Module, str], kind: Callable[[nn.Module], bool]) -> list[str]:
    """Parts of a kind that lie within no other of it."""
    found = [part for part in names if kind(part)]
    within = {part for holder in found for part in _below(holder)}
    return [names[part] for part in found if part not in within]


def _below(block: nn.Module) -> Iterator[nn.Module]:
    return (part for part in block.modules() if part is not block)


def _compound(module: nn.Module) -> list[nn.Module]:
    """Submodules that may hold a sum: all but torch's own single operations, in the order of definition.

    What lies within a keelnet block is its field, which runs with other weights in every layer. Parametrizations are
    maps of weights; scripted parts take no hooks.
    """
    closed = [part for part in module.modules() if isinstance(part, (Block, ParametrizationList))]
    within = {part for holder in closed for part in _below(holder)}
    return [
        part
        for part in module.modules()
        if part not in within
        and not is_scripted(part)
        and (
            next(part.children(), None) is not None
            or not type(part).__module__.startswith("torch.")
        )
    ]


def _is_residual(call: Call, name: str, inner: Sequence[nn.Module]) -> bool:
    try:
        if call.divisible:
            return _is_step(call, call.y[:1], inner)
        return _is_step(call, call.y, inner)  # of windows, or of frames
    except REFUSALS as error:
        if inner:  # such as a container that changes views in place, which autograd refuses
            return False
        reason = error
    try:
        with torch.no_grad():
            call(call.y.clone())
    except REFUSALS as error:
        raise ValueError(
            f"{name} could be called once, but not again with the same input ({error}); if it keeps a state, such as a"
            " cache of keys (use_cache), switch that off"
        ) from error
    raise _UnrecordedError(first_line(reason)) from reason


def _is_step(call: Call, y: Tensor, inner: Sequence[nn.Module]) -> bool:
    leaf = y.clone().requires_grad_()
    with torch.enable_grad(), exact_attention(), _cut(inner, leaf) as (closed, passed):
        value = call(leaf.clone())  # it may change its input in place
    return value.shape == leaf.shape and is_sum(value, leaf, closed, passed)


@contextmanager
def _cut(parts: Sequence[nn.Module], leaf: Tensor) -> Iterator[tuple[set[Node], set[Node]]]:
    """Meanwhile graphs begin anew behind what these steps answer, so that theirs are not kept; the nodes where they do.

    Those alone whose answers depend on the leaf; and of these the steps taken from what is the leaf but for sums, since a
    step keeps its input.
    """
    begun: set[Node] = set()
    passed: set[Node] = set()

    def begin(answer: object) -> object:
        if not isinstance(answer, Tensor) or answer.grad_fn is None:
            return answer
        if not depends(answer, leaf, begun):
            return answer.detach()
        fresh = answer.detach().requires_grad_().clone()  # it may be changed in place
        assert fresh.grad_fn is not None
        begun.add(fresh.grad_fn)
        return fresh

    def cut(part: nn.Module, args: object, named: object, answer: object) -> object:
        fresh = trees.tree_map(begin, answer)
        y = next(iter(features_among((args, named))), None)
        if y is not None and is_carried(y, leaf, begun, passed):
            kept = answered(fresh, y.shape)
            if kept is not None and kept.grad_fn in begun:
                passed.add(kept.grad_fn)
        return fresh

    handles = [part.register_forward_hook(cut, with_kwargs=True) for part in parts]
    try:
        yield begun, passed
    finally:
        for handle in handles:
            handle.remove()
