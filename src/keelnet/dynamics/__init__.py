"""Floor 0: kernels, fields and controls. The mathematics of one layer."""

from keelnet.dynamics.activations import Activation
from keelnet.dynamics.controls import Control
from keelnet.dynamics.fields import (
    AntisymmetricField,
    Dynamics,
    Field,
    SingleField,
    Slot,
    SymmetricField,
)
from keelnet.dynamics.hamiltonian import (
    DoubleHamiltonianField,
    HamiltonianField,
    PartitionedField,
)
from keelnet.dynamics.kernels import ConvKernel, DenseKernel, Kernel
from keelnet.dynamics.modules import ModuleField
from keelnet.dynamics.norms import ChannelNorm, InstanceNorm, Norm

__all__ = [
    "Activation",
    "AntisymmetricField",
    "ChannelNorm",
    "Control",
    "ConvKernel",
    "DenseKernel",
    "DoubleHamiltonianField",
    "Dynamics",
    "Field",
    "HamiltonianField",
    "InstanceNorm",
    "Kernel",
    "ModuleField",
    "Norm",
    "PartitionedField",
    "SingleField",
    "Slot",
    "SymmetricField",
]
