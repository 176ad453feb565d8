"""Copies: a module once more, with nothing in common but what is said to be."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module, kept: dict[int, Any]) -> Module:
    """A deep copy, in which ``kept`` stands in for the objects of these ids; tensors of a graph are copied without it.

    Raises ValueError for a module that holds what cannot be copied.
    """
    # The old weight_norm keeps the last weight it made, other branches their attention or a state.
    for part in module.modules():
        for value in tree_leaves(vars(part)):
            if isinstance(value, Tensor) and not value.is_leaf:
                kept.setdefault(id(value), value.detach().clone())
    _keep_owners(module, kept)
    try:
        return copy.deepcopy(module, kept)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"a copy of {type(module).__name__} was wanted, but it holds what cannot be copied ({error});"
            " give that a __deepcopy__, or keep it outside the module"
        ) from error


def _keep_owners(module: nn.Module, kept: dict[int, Any]) -> None:
    """Whose methods are hooks is not copied with them: a recorder, or the network around the module."""
    own = {id(part) for part in module.modules()}
    for part in module.modules():
        for name, hooks in vars(part).items():
            known = name.endswith("_hooks") and isinstance(hooks, dict)
            for hook in hooks.values() if known else ():
                owner = getattr(hook, "__self__", None)
                if owner is not None and id(owner) not in own:
                    kept.setdefault(id(owner), owner)
