"""Why a peer is ahead, where it is known: the first pattern that fits the cell and the peer."""

from __future__ import annotations

import re

from standings import Standing

UNEXPLAINED = "not yet explained"

# (pattern on the cell's name, pattern on the peer's name, reason)
REASONS = (
    (
        r"width 512, batch 256",
        r"torch autograd|jax",
        "packing so large weights for so few samples does not pay: both call a library's product, and what"
        " stands beside it takes as long in both",
    ),
    (
        r"batch 1, depth 1000",
        r"jax|diffrax",
        "the loop over layers is inside the compiled program: nothing is called between layers",
    ),
    (
        r"width (2|8)(→3)?, batch",
        r"jax|diffrax",
        "XLA compiles the loop over layers and fuses tanh, scale and addition into it",
    ),
    (
        r"width \d+, batch",
        r"jax|diffrax",
        "XLA fuses tanh, scale and addition and calls another product than torch",
    ),
    (r"", r"torch.compile", "Inductor fuses tanh, scale and addition into one pass"),
    (
        r"width 2(→3)?, batch 1, ",
        r"torch autograd",
        "checks of the input and the choice of an engine cost more than the layers",
    ),
    (r"\dD|[²³]", r"memcnn|iunets", "the same shears, with less said between them"),
)


def reason(standing: Standing) -> str:
    """Empty where we are ahead."""
    if standing.ratio is None or standing.ratio >= 1:
        return ""
    assert standing.peer is not None
    for cell, peer, text in REASONS:
        if re.search(cell, standing.name) and re.search(peer, standing.peer.name):
            return text
    return UNEXPLAINED
