"""Data that comes with the package or with its dependencies; nothing is ever downloaded."""

from keelnet.data.brain import BrainMaps, brain_maps, load_icbm152
from keelnet.data.distortion import Distortion
from keelnet.data.images import Shift, digits
from keelnet.data.samples import Augmentation, Batch, InMemory, Samples, Share, Source, unchanged
from keelnet.data.tissue import SlabSplit, TissueSlices, tissue_slices

__all__ = [
    "Augmentation",
    "Batch",
    "BrainMaps",
    "Distortion",
    "InMemory",
    "Samples",
    "Share",
    "Shift",
    "SlabSplit",
    "Source",
    "TissueSlices",
    "brain_maps",
    "digits",
    "load_icbm152",
    "tissue_slices",
    "unchanged",
]
