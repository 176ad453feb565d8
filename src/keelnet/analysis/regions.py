"""Regions: how well a predicted tumour agrees with the true one, region by region and lesion by lesion."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from keelnet.data.conventions import REGIONS

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]

# A region or lesion found where there is none, or missed: the distance that BraTS counts, in mm.
MISSED = 374.0
# By the organisers' code for glioma (BraTS 2023): lesions of the truth up to so many mm³ are not counted, and those
# that so many dilations by a voxel's 18 neighbours join are one.
SMALLEST = 50.0
DILATIONS = 3
ROUNDING = 1e-5  # of a volume: what is just as large must not be decided by an affine in float32
_CUBE = np.ones((3, 3, 3), bool)
_NEIGHBOURS = ndimage.generate_binary_structure(3, 2)


@dataclass(frozen=True)
class RegionScore:
    """Of one region of one case. Both empty: Dice 1, HD95 0; one of them empty: 0 and `MISSED`.

    dice = 2 |A ∩ B| / (|A| + |B|). hd95: 95th percentile of the distances between the surfaces, mm, the larger of both
    directions. sensitivity = TP / (TP + FN), specificity = TN / (TN + FP), nan where undefined.
    lesion_dice, lesion_hd95: means over lesions by the rules of BraTS 2023 for glioma: components of the truth that
    three dilations join, those of more than 50 mm³, each with the predicted components that touch the dilated one. A lost
    lesion scores 0 and `MISSED`, and so does every predicted component that touches none, however small. Volumes in ml.
    """

    dice: float
    hd95: float
    sensitivity: float
    specificity: float
    lesion_dice: float
    lesion_hd95: float
    predicted_ml: float
    true_ml: float


def region_scores(
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    spacing: Sequence[float],
    voxel_ml: float | None = None,
) -> dict[str, RegionScore]:
    """The scores of WT, TC and ET. predicted, truth: classes as in `conventions`; spacing: mm along each axis.

    voxel_ml: the volume of a voxel; by default that of a box of these sides, which a voxel of a sheared grid is not.
    """
    if predicted.shape != truth.shape:
        raise ValueError(
            f"predicted and truth must have one shape, got {predicted.shape} and {truth.shape}"
        )
    volume = float(np.prod(spacing)) / 1000 if voxel_ml is None else voxel_ml
    return {
        name: _score(np.isin(predicted, classes), np.isin(truth, classes), spacing, volume)
        for name, classes in REGIONS.items()
    }


def _score(found: Mask, true: Mask, spacing: Sequence[float], voxel_ml: float) -> RegionScore:
    both = float((found & true).sum())
    lesion_dice, lesion_hd95 = _by_lesion(found, true, spacing, 1000 * voxel_ml)
    outside = float((~true).sum())
    return RegionScore(
        dice=region_dice(found, true),
        hd95=hausdorff95(found, true, spacing),
        sensitivity=both / float(true.sum()) if true.any() else float("nan"),
        specificity=float((~found & ~true).sum()) / outside if outside else float("nan"),
        lesion_dice=lesion_dice,
        lesion_hd95=lesion_hd95,
        predicted_ml=float(found.sum()) * voxel_ml,
        true_ml=float(true.sum()) * voxel_ml,
    )


def region_dice(found: Mask, true: Mask) -> float:
    """2 |A ∩ B| / (|A| + |B|); 1 where both are empty."""
    size = float(found.sum()) + float(true.sum())
    return 2 * float((found & true).sum()) / size if size else 1.0


def hausdorff95(found: Mask, true: Mask, spacing: Sequence[float]) -> float:
    """The 95th percentile of surface distances in mm, the larger of both directions; computed by MONAI."""
    if not found.any() and not true.any():
        return 0.0
    if not found.any() or not true.any():
        return MISSED
    box = _box(found | true)
    one, other = (
        torch.from_numpy(mask[box].astype(np.float32))[None, None] for mask in (found, true)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, none about numbers
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance

        distance = compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=list(spacing)
        )
    return float(distance[0, 0])


def _box(mask: Mask, margin: int = 1) -> Box:
    """Around what is marked, with a voxel of margin so that surfaces stay surfaces."""
    return _widened(ndimage.find_objects(mask.astype(np.uint8)), margin)


def _widened(boxes: Sequence[Box], margin: int) -> Box:
    """Around all of these boxes, with a margin."""
    return tuple(
        slice(
            max(0, min(cut.start for cut in cuts) - margin), max(cut.stop for cut in cuts) + margin
        )
        for cuts in zip(*boxes, strict=True)
    )


def _by_lesion(
    found: Mask, true: Mask, spacing: Sequence[float], voxel: float
) -> tuple[float, float]:
    """lesion_dice and lesion_hd95 of `RegionScore`; voxel: mm³. Each lesion is looked at where it and its parts are."""
    if not found.any() and not true.any():
        return 1.0, 0.0
    whole = _box(found | true, DILATIONS + 1)
    found, true = found[whole], true[whole]
    joined, _ = ndimage.label(ndimage.binary_dilation(true, _NEIGHBOURS, DILATIONS), _CUBE)
    parts, pieces = ndimage.label(found, _CUBE)
    around = ndimage.find_objects(parts)
    touched: set[int] = set()
    scores: list[tuple[float, float]] = []
    for lesion, place in enumerate(ndimage.find_objects(joined), 1):
        region = joined[place] == lesion
        near = sorted(set(np.unique(parts[place][region]).tolist()) - {0})
        touched.update(near)
        if (true[place] & region).sum() * voxel <= SMALLEST * (1 + ROUNDING):
            continue
        box = _widened([place, *(around[part - 1] for part in near)], 1)
        own = true[box] & (joined[box] == lesion)
        guess = np.isin(parts[box], near)
        scores.append((region_dice(guess, own), hausdorff95(guess, own, spacing)))
    scores += [(0.0, MISSED)] * (pieces - len(touched))
    if not scores:
        return 1.0, 0.0
    dice, distance = np.mean(scores, axis=0)
    return float(dice), float(distance)
