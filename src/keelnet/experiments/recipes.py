"""Recipes: one frozen dataclass is one run, the seed included."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from keelnet.experiments.classification_recipes import CLASSIFICATION
from keelnet.experiments.settings import assignments, described, fits, read

OnFiles = Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "stl10"]
Whole = Literal["digits", "ellipses", "swiss_roll", "peaks", "mnist5k", OnFiles]  # a label an input


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run.

    data and architecture are names; width and depth as in ``architectures.Settings``, with several
    numbers for several levels; gain scales the first parameters. strategy "auto" is reversible where
    the method allows it, else checkpointed. folds and rise are the segmenter's. threads 0 leaves
    torch's own choice.

    method: how it trains. batch (0: all samples at once, of recipes that classify whole inputs), epochs
    and minutes (whichever ends first) are everyone's; rate, momentum (sgd), decay, warmup, schedule and clip of
    adam and sgd, with average, products and bound as in ``learning.Training``; damping, inner (most products a
    step; of lbfgs: iterations), tangent and share of `GaussNewton`. smoothness, tikhonov and classifier_tikhonov are the
    weights of the regularisers. levels: trained first with depth / 2^(levels − 1) layers, then refined to
    twice as many and trained on, each level for an equal part of the budget (`multilevel`).

    Of recipes on scans alone: folder of scans and what their labels mean (none: ``cases`` synthetic
    ones of ``resolution`` mm, made on first use), skip_bad to go on without those that cannot be
    read; spacing in mm of the voxels that the network works on (none: the scans' own); patch, its
    sides in voxels; patches in an epoch, of which a share ``lesion`` is centred on tumour; withheld,
    the share of the cases kept for validation, and judged, how many of them an epoch is judged by;
    workers, processes that cut patches beside the training.

    Of recipes that classify whole inputs alone: samples, training samples to keep (none: all). Of
    those on image files also: the folder where these lie.

    Of recipes on rods alone, see ``data.qtips``: size of an image and length of a rod in pixels, and
    rods, the most in an image.
    """

    name: str
    data: Literal[Whole, "tissue", "tumour", "qtips"]
    architecture: Literal[
        "residual",
        "antisymmetric",
        "hamiltonian",
        "double_hamiltonian",
        "parabolic",
        "second_order",
        "segmenter",
    ]
    width: int | tuple[int, ...] = 32
    depth: int | tuple[int, ...] = 8
    final_time: float = 1.0
    stencil: int = 3
    activation: str = "tanh"
    knots: int | None = None
    strategy: Literal["auto", "store_all", "checkpointed", "reversible"] = "auto"
    gain: float = 1.0
    method: Literal["adam", "sgd", "lbfgs", "gauss_newton", "block_descent", "varpro"] = "adam"
    rate: float = 1e-2
    momentum: float = 0.9
    decay: float = 0.0
    warmup: float = 0.1
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    clip: float | None = 1.0
    bound: float | None = None
    damping: float = 0.1
    inner: int = 30
    tangent: Literal["forward", "transposed", "differences", "stored"] = "forward"
    share: float = 1.0
    levels: int = 1
    batch: int = 64
    epochs: int | None = 30
    minutes: float | None = None
    smoothness: float = 0.0
    tikhonov: float = 0.0
    classifier_tikhonov: float = 0.0
    average: float | None = None
    products: Literal["state", "bfloat16"] = "state"
    folds: int = 0
    rise: int | tuple[int, ...] = 0
    samples: int | None = None
    folder: str | None = None
    labels: str | None = None
    skip_bad: bool = False
    cases: int = 96
    resolution: int = 2
    spacing: float | None = None
    patch: tuple[int, ...] = (64, 64, 64)
    patches: int = 160
    lesion: float = 0.67
    withheld: float = 0.2
    judged: int = 8
    workers: int = 0
    size: int = 24
    length: float = 12.0
    rods: int = 6
    seed: int = 0
    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be at least 0 and below 2^63, got {self.seed}")
        if not 0 <= self.threads <= 256:
            raise ValueError(
                f"threads must lie between 0 (torch's choice) and 256, got {self.threads}"
            )
        depths = self.depth if isinstance(self.depth, tuple) else (self.depth,)
        for key, value in [*(("depth", each) for each in depths), ("knots", self.knots or 0)]:
            if value > DEEPEST:
                raise ValueError(f"{key} must be at most {DEEPEST}, got {value}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes must be a finite number above 0, got {self.minutes!r}")
        for keys, fit, on in (
            (ON_SCANS, self.on_scans, "scans"),
            (ON_RODS, self.data == "qtips", "rods"),
            (("folder",), self.on_scans or self.data in ON_FILES, "files of yours"),
            (("samples",), self.data in WHOLE, "inputs with one label"),
        ):
            if not fit and (changed := self._changed(keys)):
                raise ValueError(
                    f"{changed[0]} is a setting of recipes on {on}, which {self.name} is not"
                )
        for key in ("folder", "labels"):
            if getattr(self, key) == "":
                raise ValueError(
                    f"{key} is empty (a variable that is not set?); none is {key}=none"
                )
        if self.architecture != "segmenter" and (changed := self._changed(("folds", "rise"))):
            raise ValueError(
                f"{changed[0]} is a setting of the segmenter, not of {self.architecture}"
            )
        if self.architecture == "segmenter" and self.gain != 1:
            raise ValueError("gain is a setting of every architecture but the segmenter")
        for of_some, methods in OF_METHODS.items():
            self._require_of(methods, self._changed(of_some))
        if self.batch == 0 and self.data not in WHOLE:
            raise ValueError(
                f"batch=0 (all samples at once) is for inputs with one label, which {self.name} has not"
            )

    @property
    def on_scans(self) -> bool:
        """Whether its data are volumes, which are cut into patches and tiles."""
        return self.data == "tumour"

    def _changed(self, keys: Sequence[str]) -> list[str]:
        """Those of these keys that are not as they are by default."""
        defaults = {each.name: each.default for each in fields(Recipe)}
        return [key for key in keys if getattr(self, key) != defaults[key]]

    def _require_of(self, methods: Sequence[str], keys: Sequence[str]) -> None:
        if keys and self.method not in methods:
            raise ValueError(
                f"{keys[0]} is a setting of {', '.join(methods)}, not of {self.method}"
            )

    def with_settings(self, settings: Sequence[str]) -> Recipe:
        """The recipe with ``key=value`` settings, each value read as its key's type.

        Several numbers are separated by commas; ``none`` stands for None; a folder is kept with its whole path, so that
        a run can be gone on with from anywhere. Raises ValueError for an unknown key, for a value that is not of
        the key's type, and for a setting that the method has no use for.
        """
        changes = assignments(settings)
        hints = get_type_hints(Recipe)
        known = [f.name for f in fields(Recipe) if f.name not in FIXED]
        for key in changes:
            if key not in known:
                raise ValueError(f"unknown setting {key!r}; known are {', '.join(known)}")
        values = {key: read(key, text, hints[key]) for key, text in changes.items()}
        if values.get("folder"):
            values["folder"] = str(Path(values["folder"]).absolute())
        changed = replace(self, **values)
        for key in values.keys() & WAITING.keys():
            changed._require_of(WAITING[key], [key])
        return changed

    @property
    def resolved(self) -> Recipe:
        """With its folder's whole path, links followed: one kept as it was given, as it once was, is that below the present one."""
        return replace(self, folder=self.folder and str(Path(self.folder).resolve()))

    def same_as(self, other: Recipe) -> bool:
        """Whether both are one, the folder as it was given or resolved, as it once was kept."""
        return self.resolved == other.resolved

    def as_table(self) -> dict[str, Any]:
        """Plain values for TOML, which has no null: a key that is None is left out."""
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return {key: value for key, value in plain.items() if value is not None}

    @staticmethod
    def from_toml(text: str) -> Recipe:
        """The recipe in a ``recipe.toml``; raises ValueError for keys or values that do not fit."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"recipe.toml is not TOML: {error}") from None
        hints = get_type_hints(Recipe)
        unknown = sorted(table.keys() - hints.keys())
        missing = sorted({"name", "data", "architecture"} - table.keys())
        if unknown or missing:
            raise ValueError(f"recipe.toml: unknown keys {unknown}, missing keys {missing}")
        # A key that may be None was left out where it was None.
        absent = {key: None for key, hint in hints.items() if type(None) in get_args(hint)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        for key, value in values.items():
            if not fits(value, hints[key]):
                raise ValueError(f"recipe.toml: {key} = {value!r} is not {described(hints[key])}")
        return Recipe(**(absent | values))


FIXED = ("name", "data")
DEEPEST = 100_000  # layers of a level: a hundred times the deepest network of the source
CURVED = ("gauss_newton", "block_descent", "varpro")  # methods that use second derivatives
GRADUAL = ("adam", "sgd")  # methods whose steps are paced by rates
# What recipes change for the sake of these waits unused beside other methods; asked for beside one, it is refused.
WAITING = dict.fromkeys(("rate", "decay", "warmup", "clip"), GRADUAL) | {"momentum": ("sgd",)}
OF_METHODS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("damping", "tangent", "share"): CURVED,
    ("inner",): ("lbfgs", *CURVED),
    ("average", "products"): ("adam", "sgd", "lbfgs"),
    ("bound", "schedule"): GRADUAL,
}
ON_FILES, WHOLE = get_args(OnFiles), get_args(Whole)
ON_SCANS = (
    "labels",
    "skip_bad",
    "cases",
    "resolution",
    "spacing",
    "patch",
    "patches",
    "lesion",
    "withheld",
    "judged",
    "workers",
)
ON_RODS = ("size", "length", "rods")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits",
            data="digits",
            architecture="hamiltonian",
            width=32,
            depth=20,
            final_time=4.0,
            rate=1e-2,
            batch=64,
            epochs=20,
        ),
        Recipe(
            name="tissue",
            data="tissue",
            architecture="segmenter",
            width=(16, 32, 64),
            depth=(4, 6, 8),
            final_time=4.0,
            rate=1e-2,
            batch=4,
            epochs=60,
        ),
        Recipe(
            name="tumour",
            data="tumour",
            architecture="segmenter",
            width=(32, 64, 128),
            depth=(2, 2, 4),
            folds=1,
            final_time=2.0,
            rate=4e-3,
            decay=1e-4,
            batch=2,
            epochs=None,
            minutes=8.0,
            spacing=2.0,
        ),
        Recipe(
            name="qtips",
            data="qtips",
            architecture="hamiltonian",
            width=16,
            depth=16,
            final_time=8.0,
            knots=8,
            rate=3e-2,
            batch=8,
            epochs=40,
        ),
        *(Recipe(**settings) for settings in CLASSIFICATION),
    )
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; raises ValueError with the names that exist."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]
