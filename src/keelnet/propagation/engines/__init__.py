"""Engines: the same propagation, executed fused."""

from keelnet.propagation.engines.choice import Choice, engine

__all__ = ["Choice", "engine"]
