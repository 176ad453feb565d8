"""The tumour task: regions of brain tumours on scans of four modalities."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from keelnet.analysis.regions import region_dice, region_scores
from keelnet.data.conventions import REGIONS, convention_named
from keelnet.data.patches import Patches, require_workers
from keelnet.data.prepared import Volume
from keelnet.experiments.recipes import Recipe
from keelnet.experiments.scan_sets import SYNTHETIC, Scans, ScanSet, scan_set
from keelnet.experiments.spaces import patch_of, tiling_of
from keelnet.experiments.tasks import Report, Task
from keelnet.experiments.tiles import Tiling, labelled
from keelnet.learning.losses import Loss
from keelnet.learning.regions import region_loss

SPLIT = "split.json"  # which cases a run is trained on, and which it is judged by
SPACINGS = (0.1, 20.0)  # mm of a voxel that scans may be brought to
SHOWN = 3  # withheld cases in the picture of a run


class Tumour(Task):
    """Whole tumour, core and enhancing tumour on FLAIR, T1, T1ce and T2."""

    inputs, outputs, dim, per_pixel, goal = 4, 3, 3, True, "mean_dice"
    loss: ClassVar[Loss] = staticmethod(region_loss)

    def __init__(
        self, scans: ScanSet, patches: Patches, judged: int, device: torch.device, tiling: Tiling
    ) -> None:
        self.scans, self.source, self.device = scans, patches, device
        self.withheld = scans.prepared.volumes(scans.withheld)
        self.judged = self.withheld[:judged]
        self.tiling = tiling

    @property
    def example(self) -> Tensor:
        assert isinstance(self.source, Patches)
        return torch.zeros(1, self.inputs, *self.source.patch)

    def validated(self, network: nn.Module) -> dict[str, float]:
        """Mean Dice a region over the withheld cases that are judged every epoch."""
        scores = [self._dice(network, volume) for volume in self.judged]
        means = {name: float(np.mean([score[name] for score in scores])) for name in REGIONS}
        return {"mean_dice": float(np.mean([*means.values()])), **means}

    def _dice(self, network: nn.Module, volume: Volume) -> dict[str, float]:
        found = _dice_of(self._labelled(network, volume), volume)
        volume.let_go()
        return found

    def _labelled(self, network: nn.Module, volume: Volume) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return labelled(network, volume.x, self.tiling, device=self.device)

    def final_scores(self, network: nn.Module, best: dict[str, float]) -> dict[str, Any]:
        """On all withheld cases: means of what `region_scores` gives, region by region."""
        every = []
        for volume in self.withheld:
            found = self._labelled(network, volume)
            every.append(region_scores(found, np.asarray(volume.classes), volume.spacing))
            volume.let_go()
        regions = {
            name: {
                key: _mean([asdict(scores[name])[key] for scores in every])
                for key in asdict(every[0][name])
            }
            for name in REGIONS
        }
        dice = {name: float(np.mean([scores[name].dice for scores in every])) for name in REGIONS}
        return {
            "validation_dice": dice,
            "validation_dice_mean": _mean(dice.values()),
            "validation_cases": len(every),
            "regions": regions,
        }

    def pictures(self, network: nn.Module) -> dict[str, bytes]:
        from keelnet.experiments import pictures

        shown = self.withheld[:SHOWN]
        found = [self._labelled(network, volume) for volume in shown]
        return {"overlay.png": pictures.tumours(shown, found)}

    def about(self) -> dict[str, Any]:
        assert isinstance(self.source, Patches)
        volumes = (*self.source.volumes, *self.withheld)
        return {
            SPLIT: {
                "folder": str(self.scans.folder.absolute()),
                "labels": self.scans.labels,
                "training": list(self.scans.training),
                "withheld": list(self.scans.withheld),
                "refused": self.scans.refused,
                "files": self.scans.files,
                "patients": self.scans.patients,
                "content": {volume.name: volume.content for volume in volumes},
            }
        }

    def require_same(self, run: Path) -> None:
        """Cases that have come or gone change the split, and withheld ones would be trained on; the others and their
        labels are what they were, in whatever files they lie.
        """
        try:
            split = json.loads((run / SPLIT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{run / SPLIT} cannot be read ({error}); train anew") from None
        now = self.about()[SPLIT]
        if (meant := split.get("labels")) and meant != now["labels"]:
            raise ValueError(
                f"labels of {self.scans.folder} are read as {now['labels']}, and were as {meant} when the run began;"
                " restore them, or train anew"
            )
        if all(split[part] == now[part] for part in ("training", "withheld")):
            return self._require_unchanged(split.get("content", {}))
        before, after = ({*each["training"], *each["withheld"]} for each in (split, now))
        changed = [
            f"{', '.join(sorted(names)[:3])}{' and more' * (len(names) > 3)} {word}"
            for names, word in ((after - before, "came"), (before - after, "went"))
            if names
        ]
        raise ValueError(
            f"{self.scans.folder} has other cases than when the run began"
            f" ({'; '.join(changed) or 'they are split otherwise'}); restore them, or train anew"
        )

    def _require_unchanged(self, before: dict[str, str]) -> None:
        """Of a run, or of cases, of an earlier version it is not known."""
        now = self.about()[SPLIT]["content"]
        changed = [
            name
            for name, content in now.items()
            if content and before.get(name, "") not in ("", content)
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                f"scans or labels of {', '.join(changed[:3])}{more} in {self.scans.folder} are others than when the run"
                " began; restore them, or train anew"
            )


def _dice_of(found: np.ndarray[Any, np.dtype[np.uint8]], volume: Volume) -> dict[str, float]:
    return {
        name: region_dice(np.isin(found, classes), np.isin(volume.classes, classes))
        for name, classes in REGIONS.items()
    }


def _mean(values: Iterable[float]) -> float | None:
    """Over those that are defined; JSON knows no nan."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else None


def require_settings(recipe: Recipe) -> None:
    """Raise ValueError for settings of a recipe on scans that no scans would make work."""
    patch_of(recipe)
    for key in ("batch", "patches", "judged"):
        if (value := getattr(recipe, key)) < 1:
            raise ValueError(f"{key} must be at least 1, got {value}")
    require_workers(recipe.workers)
    if not 0 < recipe.withheld < 1:
        raise ValueError(
            f"withheld must lie between 0 and 1, got {recipe.withheld!r}; one of five is withheld=0.2"
        )
    if not 0 <= recipe.lesion <= 1:
        raise ValueError(
            f"lesion is a share of the patches, from 0 to 1, got {recipe.lesion!r}; two of three are lesion=0.67"
        )
    if recipe.spacing is not None and not SPACINGS[0] <= recipe.spacing <= SPACINGS[1]:
        raise ValueError(
            f"spacing must lie between {SPACINGS[0]:g} and {SPACINGS[1]:g} mm, got {recipe.spacing!r}"
        )
    if recipe.labels is not None:
        convention_named(recipe.labels)
        if recipe.folder is None:
            raise ValueError(
                f"labels says what those of your scans mean, and synthetic cases are {SYNTHETIC}, got {recipe.labels!r}:"
                " set folder to yours (train: --data), or leave labels out"
            )


def tumour_task(
    recipe: Recipe, device: torch.device, report: Report, scans: Scans = scan_set
) -> Tumour:
    """The task on the recipe's scans; `require_settings` has let its settings pass."""
    found = scans(recipe, report)
    patches = Patches(
        found.prepared.volumes(found.training),
        patch_of(recipe),
        recipe.patches,
        recipe.lesion,
        workers=recipe.workers,
    )
    return Tumour(found, patches, recipe.judged, device, tiling_of(recipe))
