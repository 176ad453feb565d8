"""Search: which parts of an ordinary network are residual blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from keelnet.analysis.calls import Call
from keelnet.analysis.derivatives import exact_attention
from keelnet.analysis.sums import is_sum
from keelnet.analysis.tables import listed
from keelnet.analysis.visits import visit


def residual_blocks(
    module: nn.Module, x: Tensor, names: dict[nn.Module, str]
) -> tuple[list[nn.Module], list[str]]:
    """The innermost residual blocks, and what is to be said of others; raises ValueError where there are none."""
    residual: list[nn.Module] = []
    keeping: list[str] = []

    def look(call: Call) -> None:
        if call.part is not module and not isinstance(call.part, nn.Sequential):
            keeping.append(names[call.part])
        # What is inside has been looked at before: only one block's graph is alive at a time.
        outer = any(inner in residual for inner in call.part.modules())
        if not outer and _is_residual(call, names[call.part]):
            residual.append(call.part)

    visit(module, _compound(module), x[:1], look, keeping=True)
    if not residual:
        candidates = f" These keep the shape of their input: {listed(keeping)}." if keeping else ""
        raise ValueError(
            f"no residual block was found in {type(module).__name__}; name them with blocks=[…], by the dotted names of"
            f" named_modules().{candidates} Looked for were submodules that answer with their input plus something of it,"
            " without weights on the way of the input; a sum in the forward of the whole network belongs to no submodule"
        )
    inside = {part for block in residual for part in block.modules()}
    kinds = {type(block) for block in residual}
    others = [
        name
        for part, name in names.items()
        if type(part) in kinds and part not in inside and not inside.intersection(part.modules())
    ]
    if not others:
        return residual, []
    return residual, [
        f"not looked at: {listed(others)}, of the same class as blocks above, but with weights on the way of the input"
        " or another shape; blocks=[…] measures them, too"
    ]


def _compound(module: nn.Module) -> list[nn.Module]:
    """Submodules that may hold a sum: all but torch's own single operations, in the order of definition."""
    return [
        part
        for part in module.modules()
        if next(part.children(), None) is not None or not type(part).__module__.startswith("torch.")
    ]


def _is_residual(call: Call, name: str) -> bool:
    leaf = call.y[:1].clone().requires_grad_()
    try:
        with torch.enable_grad(), exact_attention():
            value = call(leaf.clone())  # it may change its input in place
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"{name} could be called once, but not again with the same input ({error}); if it keeps a state, such as a"
            " cache of keys (use_cache), switch that off"
        ) from error
    return value.shape == leaf.shape and is_sum(value, leaf)
