"""Floor 3: what is measured of a network."""

from keelnet.analysis.layers import LayerStability
from keelnet.analysis.portraits import growth_figure, spectra_figure
from keelnet.analysis.reports import BlockStability, StabilityReport
from keelnet.analysis.residual import diagnose
from keelnet.analysis.spectra import Spectrum
from keelnet.analysis.stability import stability

__all__ = [
    "BlockStability",
    "LayerStability",
    "Spectrum",
    "StabilityReport",
    "diagnose",
    "growth_figure",
    "spectra_figure",
    "stability",
]
