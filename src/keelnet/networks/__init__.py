"""Floor 2: blocks, connections, networks and the named architectures."""

from keelnet.networks import architectures
from keelnet.networks.blocks import Block
from keelnet.networks.connections import Affine, Augment, Pool, Upsample
from keelnet.networks.network import Classifier, Network, SpatialClassifier
from keelnet.networks.segmentation import Segmenter
from keelnet.networks.stabilised import stabilised

__all__ = [
    "Affine",
    "Augment",
    "Block",
    "Classifier",
    "Network",
    "Pool",
    "Segmenter",
    "SpatialClassifier",
    "Upsample",
    "architectures",
    "stabilised",
]
