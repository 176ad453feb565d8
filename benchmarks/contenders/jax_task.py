"""What the contenders on JAX share: compiled ahead of time, waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from cases import BACKWARD, Pass

from contenders.task import Task

Tree = Any


class JaxTask(Task):
    """``propagate(weight, y0)`` gives y(T); its trees may be any that ``inward`` builds."""

    def __init__(
        self,
        propagate: Callable[[Tree, Tree], Tree],
        numbers: dict[str, np.ndarray],
        pass_: Pass,
        inward: Callable[[np.ndarray], Tree] = jax.numpy.asarray,
        outward: Callable[[Tree], np.ndarray] = np.asarray,
        weight_in: Callable[[np.ndarray], Tree] = jax.numpy.asarray,
        weight_out: Callable[[Tree], np.ndarray] = np.asarray,
    ) -> None:
        self.inward, self.outward, self.weight_out = inward, outward, weight_out
        self.backward = pass_ == BACKWARD

        def both(weight: Tree, y0: Tree, cotangent: Tree) -> Tree:
            y, pull_back = jax.vjp(propagate, weight, y0)
            return y, *pull_back(cotangent)

        self.given: tuple[Tree, ...] = (weight_in(numbers["weight"]), inward(numbers["y0"]))
        if self.backward:
            self.given += (inward(numbers["cotangent"]),)
        function = both if self.backward else propagate
        self.compiled = jax.jit(function).lower(*self.given).compile()

    def run(self) -> None:
        jax.block_until_ready(self.compiled(*self.given))

    def outcome(self, cotangent: np.ndarray) -> dict[str, np.ndarray] | None:
        if not self.backward:
            return {"y": self.outward(self.compiled(*self.given))}
        y, weight, y0 = self.compiled(*self.given[:2], self.inward(cotangent))
        return {
            "y": self.outward(y),
            "weight": self.weight_out(weight),
            "y0": self.outward(y0),
        }

    def saved(self) -> tuple[int, str] | None:
        analysis = self.compiled.memory_analysis()
        return analysis.temp_size_in_bytes, "temporaries of the compiled program (XLA's own count)"
