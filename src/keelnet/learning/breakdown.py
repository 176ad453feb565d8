"""Breakdown: numbers that a training has come to, with which it cannot go on."""

from __future__ import annotations

from keelnet.propagation.checks import NonFiniteError


class BreakdownError(ValueError):
    """The objective is no number any more, or a system that a step solves has become singular.

    Unlike what else a training refuses it is not known before it trains: other first parameters may have gone well.
    """


def is_breakdown(error: BaseException) -> bool:
    """Whether an error is of the numbers that a training has come to, in whichever room these were found."""
    return isinstance(error, BreakdownError | NonFiniteError)
