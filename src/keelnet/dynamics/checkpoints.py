"""Checkpoints: modules that let torch evaluate themselves again, when the numbers of their layer are gone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def require_no_checkpoint(
    module: nn.Module, value: Tensor, given: Iterable[Tensor], begun: int
) -> None:
    """Gradients of a re-entrant checkpoint would be wrong in silence; torch refuses the other kind.

    Looked for at every run, since a module may checkpoint itself in training only, or where its input has a gradient;
    among the nodes alone that it made of what it was ``given``. Their numbers are at least ``begun``, but each thread
    counts its own: behind what was given, nodes of another one may have any number.
    """
    seen: set[Any] = {None, *(each.grad_fn for each in given)}
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen or node._sequence_nr() < begun:
            continue
        seen.add(node)
        if type(node).__name__.startswith("CheckpointFunction"):  # name() takes twice as long
            raise ValueError(
                f"{type(module).__name__} checkpoints itself, but it runs with other numbers in every layer, which are"
                " gone when it is evaluated again; switch that off and use strategy=kn.checkpointed"
            )
        waiting += [each for each, _ in node.next_functions]
