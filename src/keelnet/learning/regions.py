"""The loss of overlapping regions: Dice and cross-entropy of each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from keelnet.data.conventions import REGIONS
from keelnet.learning.losses import soft_dice


def region_targets(classes: Tensor) -> Tensor:
    """(batch, *space) classes → (batch, 3, *space): 1 where a voxel belongs to WT, TC, ET, else 0."""
    masks = []
    for members in REGIONS.values():
        mask = torch.zeros_like(classes, dtype=torch.bool)
        for label in members:
            mask |= classes == label
        masks.append(mask)
    return torch.stack(masks, 1)


def region_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean over regions of 1 − soft Dice (over the batch together) plus binary cross-entropy.

    logits (batch, 3, *space) for WT, TC, ET; classes as in `data.conventions`. Dice by MONAI.
    """
    if logits.shape[1] != len(REGIONS) or logits[:, 0].shape != classes.shape:
        raise ValueError(
            f"logits (batch, {len(REGIONS)}, *space) for {', '.join(REGIONS)} were wanted on classes"
            f" {tuple(classes.shape)}, got {tuple(logits.shape)}"
        )
    # A region at a time, and again for the gradient: what Dice and cross-entropy keep is ten times the logits.
    pairs = zip(logits.unbind(1), region_targets(classes).unbind(1), strict=True)
    losses = [
        checkpoint(_loss, one[:, None], mask[:, None], use_reentrant=False) for one, mask in pairs
    ]
    return torch.stack(losses).mean()


def _loss(logits: Tensor, mask: Tensor) -> Tensor:
    targets = mask.to(logits.dtype)
    overlap: Tensor = soft_dice()(torch.sigmoid(logits), targets)
    return overlap + functional.binary_cross_entropy_with_logits(logits, targets)


def classes_of(logits: Tensor) -> Tensor:
    """(…, 3, *space) logits of WT, TC, ET (channel axis 1) → uint8 classes: the innermost region that is there.

    ET within TC within WT: enhancing where all three are likelier than not, necrosis where WT and TC, edema where WT alone.
    """
    whole, core, enhancing = (logits > 0).unbind(1)
    core, enhancing = core & whole, enhancing & core & whole
    classes = torch.zeros_like(whole, dtype=torch.uint8)
    classes[whole], classes[core], classes[enhancing] = 2, 1, 3
    return classes
