"""Floor 3: what is measured of a network."""

from typing import TYPE_CHECKING, Any

from keelnet.analysis.layers import LayerStability
from keelnet.analysis.reports import BlockStability, StabilityReport
from keelnet.analysis.residual import diagnose
from keelnet.analysis.spectra import Spectrum
from keelnet.analysis.stability import stability

if TYPE_CHECKING:
    from keelnet.analysis.portraits import growth_figure, spectra_figure

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


def __getattr__(name: str) -> Any:
    if name in ("growth_figure", "spectra_figure"):
        # Matplotlib takes more memory than the analysis of most networks.
        from keelnet.analysis import portraits

        return getattr(portraits, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
