"""Task: one prepared computation of one contender."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class RefusedError(Exception):
    """A contender cannot express a case; the message goes into the table."""


class Task(ABC):
    """Inputs are in place; ``run`` is what is timed."""

    note: str = ""

    @abstractmethod
    def run(self) -> None:
        """The whole computation once, finished on return."""

    @abstractmethod
    def outcome(self, cotangent: np.ndarray) -> dict[str, np.ndarray] | None:
        """y and, after a backward pass from ``cotangent``, the gradients; None for a floor."""

    def rest(self) -> None:
        """Drop what the last run left, outside the timing."""
        return

    def saved(self) -> tuple[int, str] | None:
        """Bytes kept for the backward pass and how they were counted."""
        return None
