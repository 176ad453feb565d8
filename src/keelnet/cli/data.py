"""Commands on folders of scans: look at one, make one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelnet.cli.console import console, say

if TYPE_CHECKING:
    from keelnet.data.scans import Scan

app = typer.Typer(
    no_args_is_help=True,
    help="Look at a folder of scans, or make synthetic ones.",
    epilog="Example: keelnet data check scans/",
)


@app.command(epilog="Example: keelnet data check scans/ --labels brats2021")
def check(
    inputs: Annotated[
        list[Path], typer.Argument(help="A folder, a CSV of paths, or files.", metavar="FOLDER")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            help="What the labels mean: brats2021, brats2023, brats2024, peds2024 or msd."
        ),
    ] = None,
) -> None:
    """Read every case and report layout, labels, sizes, volumes and what is wrong, without training."""
    from keelnet.data.cases import find_cases
    from keelnet.data.conventions import convention_named
    from keelnet.data.scans import read_scans, settle

    found = find_cases(inputs)
    given = convention_named(labels) if labels is not None else None
    try:
        settle(found, given)
    finally:  # of a doubtful set as well: it may tell whoever is to say what its labels mean
        for line in str(found).splitlines():
            say(line)
    shown = set(found.refused)
    for scan in read_scans(found, skip_bad=True):
        say(_described(scan))
        for name in found.refused.keys() - shown:
            say(f"refused {name}: {found.refused[name]}")
            shown.add(name)
    for name in found.refused.keys() - shown:
        say(f"refused {name}: {found.refused[name]}")
    bad = len(found.refused)
    say(f"{len(found.cases)} of {len(found.cases) + bad} cases can be used")
    if bad:
        raise ValueError(f"{bad} case{'s' * (bad != 1)} refused, see above; --skip-bad trains without them")  # fmt: skip


def _described(scan: Scan) -> str:
    import numpy as np

    from keelnet.data.conventions import CLASS_NAMES
    from keelnet.experiments.millilitres import shown as shown_ml

    shape = "×".join(map(str, scan.geometry.shape))
    spacing = "×".join(f"{side:.3g}" for side in scan.geometry.spacing)
    text = f"{scan.name}: {shape} voxels of {spacing} mm, {scan.geometry.code}"
    if scan.classes is None:
        return f"{text}, no labels"
    counts = np.bincount(scan.classes.ravel(), minlength=len(CLASS_NAMES))
    volumes = [
        f"{name} {shown_ml(count * scan.geometry.voxel_ml)}"
        for name, count in zip(CLASS_NAMES[1:], counts[1:], strict=True)
        if count
    ]
    return f"{text}, {', '.join(volumes) or 'no tumour'}"


@app.command(epilog="Example: keelnet data synth scans/ --cases 20 --seed 1 --layout brats2023")
def synth(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="OUT")],
    cases: Annotated[int, typer.Option(help="How many.", min=1)] = 10,
    seed: Annotated[
        int,
        typer.Option(
            help="The same seed gives the same cases; 0 gives those that `train tumour` makes for itself.",
            min=0,
        ),
    ] = 1,
    layout: Annotated[str, typer.Option(help="brats2021, brats2023 or msd.")] = "brats2023",
    resolution: Annotated[int, typer.Option(help="Side of a voxel in mm: 1, 2 or 4.")] = 2,
    easy: Annotated[
        bool,
        typer.Option(
            "--easy", help="Without look-alikes, labelled exactly; some tumours lack enhancement."
        ),
    ] = False,
) -> None:
    """Synthetic tumours on a real brain atlas, laid out as a published set, with a contact sheet."""
    from keelnet.experiments.synthesis import synthesise

    total = cases
    for number, name in enumerate(synthesise(out, cases, seed, layout, resolution, easy), 1):
        console.print(f"{number} of {total}: {name}", markup=False, soft_wrap=True)
    say(
        f"written to {out}; synthetic tumours on a real atlas: a score on them says nothing clinical"
    )
