"""The linear map of one form in one layer, as the sweeps need it: products, without a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Products(ABC):
    """The linear map L of one form in one layer."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """L x, in memory that the next call may use again."""

    @abstractmethod
    def add_adjoint(self, g: Tensor, target: Tensor, factor: float, dest: Tensor) -> None:
        """dest = target + factor Lᵀ g; dest may be the target."""

    @abstractmethod
    def add_gradient(self, x: Tensor, g: Tensor, sums: Tensor, factor: float, fresh: bool) -> None:
        """sums += factor · the gradient of ⟨g, L x⟩ by the layer's weight; ``fresh``: sums holds nothing yet."""
