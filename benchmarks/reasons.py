"""Why a peer is likely ahead: the first pattern that fits the cell, the peer and our engine's own account.

No run tells causes apart: tables call these reasons likely.
"""

from __future__ import annotations

import re

from standings import Standing

UNEXPLAINED = "not yet explained"

# (pattern on the cell's name, on the peer's name, on our note, reason)
REASONS = (
    (
        r"width 512, batch 256",
        r"torch autograd|jax",
        r"packing the weights would take longer",
        "packing so large weights for so few samples does not pay: both call a library's product, and what"
        " stands beside it takes as long in both",
    ),
    (
        r"batch 1, depth 1000",
        r"jax|diffrax",
        r"",
        "the loop over layers is inside the compiled program: nothing is called between layers",
    ),
    (
        r"width (2|8)(→3)?, batch",
        r"jax|diffrax",
        r"",
        "XLA compiles the loop over layers and fuses tanh, scale and addition into it",
    ),
    (
        r"width \d+, batch",
        r"jax|diffrax",
        r"",
        "XLA fuses tanh, scale and addition, and its product is another one",
    ),
    (r"", r"torch.compile", r"", "Inductor fuses tanh, scale and addition into one pass"),
    (
        r"width 2(→3)?, batch 1, ",
        r"torch autograd",
        r"",
        "checks of the input and the choice of an engine cost more than the layers",
    ),
    (r"\dD|[²³]", r"memcnn|iunets", r"", "the same shears, with less said between them"),
)


def reason(standing: Standing) -> str:
    """Empty where we are ahead."""
    if standing.ratio is None or standing.ratio >= 1:
        return ""
    assert standing.peer is not None and standing.ours is not None
    found = (standing.name, standing.peer.name, standing.ours.note)
    for *patterns, text in REASONS:
        if all(map(re.search, patterns, found)):
            return text
    return UNEXPLAINED
