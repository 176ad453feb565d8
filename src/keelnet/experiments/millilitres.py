"""Millilitres: volumes as they are written and shown; those of a mouse are a thousandth of a man's."""

from __future__ import annotations


def written(ml: float) -> float:
    """To six significant digits, for a file."""
    return float(f"{ml:.6g}")


def shown(ml: float, digits: int = 1) -> str:
    """With so many decimals; below 0.1 ml to three significant digits, which are never 0 where something is."""
    return f"{ml:.3g} ml" if 0 < ml < 0.1 else f"{ml:.{digits}f} ml"
