"""Floor 3: what is measured of a network."""

from keelnet.analysis.residual import diagnose
from keelnet.analysis.stability import StabilityReport, stability

__all__ = ["StabilityReport", "diagnose", "stability"]
