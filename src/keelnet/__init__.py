"""keelnet: fast and stable deep residual networks, seen as time integration.

``import keelnet as kn``; the public names are those of ``__all__``. They are loaded on first use,
so that the command line can print its help without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "keelnet.dynamics": (
        "Activation AntisymmetricField ChannelNorm Control ConvKernel DenseKernel"
        " DoubleHamiltonianField Dynamics Field HamiltonianField InstanceNorm Kernel ModuleField"
        " Norm PartitionedField SingleField Slot SymmetricField"
    ),
    "keelnet.propagation": (
        "DenseDiffusion Diffusion Euler IMEX Integrator LaplacianDiffusion Leapfrog Midpoint RK4 Shear ShearIntegrator"
        " StabilityWarning StepBound Strategy Verlet checkpointed engine engine_of propagate reversible step_bound"
        " store_all trajectory"
    ),
    "keelnet.networks": (
        "Affine Augment Block Classifier Network Pool Segmenter SpatialClassifier Upsample stabilised"
    ),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}
_SUBPACKAGES = {"analysis": "keelnet.analysis", "architectures": "keelnet.networks.architectures"}

__all__ = sorted([*_HOMES, *_SUBPACKAGES])

if TYPE_CHECKING:
    from keelnet import analysis as analysis
    from keelnet.dynamics import *  # noqa: F403
    from keelnet.networks import *  # noqa: F403
    from keelnet.networks import architectures as architectures
    from keelnet.propagation import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _SUBPACKAGES:
        return import_module(_SUBPACKAGES[name])
    raise AttributeError(f"module 'keelnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
