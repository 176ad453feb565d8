"""A loop over layers on arrays (rows, channels): what an engine that keeps paths has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from keelnet.propagation.problem import Problem

Arrays = list[Tensor]


class Loop(ABC):
    """The layers of one problem. ``pulled`` and ``undone`` add to the sums that ``want`` made."""

    problem: Problem

    @abstractmethod
    def last(self, parts: Arrays, layers: range) -> Arrays:
        """The parts after these layers, in memory of their own; nothing is kept."""

    @abstractmethod
    def recorded(self, parts: Arrays, layers: range) -> tuple[Arrays, Any]:
        """The parts after these layers, and a record: what the backward pass needs of them."""

    @abstractmethod
    def saved(self, record: Any) -> tuple[Tensor, ...]:
        """The record as tensors, for autograd to keep."""

    @abstractmethod
    def restored(self, kept: tuple[Tensor, ...]) -> Any:
        """The record of all layers from what ``saved`` gave."""

    @abstractmethod
    def want(self, controls: frozenset[str]) -> None:
        """Sum the gradients of these controls from now on."""

    @abstractmethod
    def pulled(self, parts: Arrays, record: Any, layers: range, costate: Arrays) -> Arrays:
        """The costate before these layers; ``parts`` as before them. The costate given is used up."""

    @abstractmethod
    def undone(self, parts: Arrays, costate: Arrays) -> Arrays:
        """The costate before all layers, each move taken back on the way. Both are used up."""

    @abstractmethod
    def totals(self) -> dict[str, Tensor]:
        """The gradients of the wanted controls, of a damped form by its effective weight."""
