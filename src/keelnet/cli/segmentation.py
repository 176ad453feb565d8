"""Commands that use a trained network on scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keelnet.cli.console import Out, Overwrite, console, say


def segment(
    run: Annotated[
        Path, typer.Argument(help="The folder of a finished run of tumour.", metavar="RUN")
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of scans, files of one case, or CSVs of paths.", metavar="INPUT"
        ),
    ],
    out: Out = None,
    overwrite: Overwrite = False,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Write labels as brats2021, brats2023, brats2024, peds2024 or msd. Default: as the input's own labels are,"
            " or its files are named."
        ),
    ] = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Average eight mirror images: eight times as long.")
    ] = False,
    smallest: Annotated[
        float, typer.Option(help="Take away connected tumours of less than so many ml.")
    ] = 0.0,
    empty_et: Annotated[
        float, typer.Option(help="If less than so many ml enhance, count them as necrosis.")
    ] = 0.0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without the cases that cannot be read.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where the network runs: cpu, cuda, …")] = "cpu",
    threads: Annotated[
        int, typer.Option(help="Threads; 0: torch's own choice.", min=0, max=256)
    ] = 0,
) -> None:
    """Label tumours on scans: NIfTI in each scan's own space and convention, a picture, volumes in ml."""
    import torch

    from keelnet.analysis.tables import listed
    from keelnet.experiments.millilitres import shown as shown_ml
    from keelnet.experiments.segment import segment as label
    from keelnet.experiments.segment import segmenting_of
    from keelnet.experiments.segmenting import Rules

    if threads:
        torch.set_num_threads(threads)
    segmenting = segmenting_of(run, mirrored, Rules(smallest, empty_et), device)
    folder = out or Path("runs/segmented")
    count = 0
    left_out: list[str] = []
    for done in label(segmenting, inputs, folder, labels, skip_bad, overwrite, say, left_out):
        shown = ", ".join(f"{name} {shown_ml(value)}" for name, value in done.regions_ml.items())
        console.print(f"{done.name}: {shown} ({done.convention})", markup=False, soft_wrap=True)
        count += 1
    others = f", {len(left_out)} left out ({listed(left_out)})" if left_out else ""
    say(
        f"{count} case{'s' * (count != 1)} written to {folder}{others}; for research only, no diagnosis"
    )


def evaluate(
    run: Annotated[
        Path, typer.Argument(help="The folder of a finished run of tumour.", metavar="RUN")
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Folders of scans with labels, or CSVs of paths.", metavar="FOLDER"),
    ],
    out: Out = None,
    overwrite: Overwrite = False,
    labels: Annotated[
        str | None,
        typer.Option(
            help="What the labels mean: brats2021, brats2023, brats2024, peds2024 or msd."
        ),
    ] = None,
    mirrored: Annotated[
        bool, typer.Option("--mirrored", help="Average eight mirror images: eight times as long.")
    ] = False,
    maps: Annotated[
        bool, typer.Option("--entropy", help="Write each case's entropy map as NIfTI.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without the cases that cannot be read.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where the network runs: cpu, cuda, …")] = "cpu",
) -> None:
    """Score a trained network on labelled scans: a table by case, a summary, and a page with pictures."""
    from keelnet.data.file_names import folder_name
    from keelnet.experiments.evaluate import evaluate as score
    from keelnet.experiments.segment import segmenting_of
    from keelnet.experiments.tumours import SPLIT

    segmenting = segmenting_of(run, mirrored, device=device)
    folder = out or Path("runs/evaluated")
    means = []
    name = folder_name(run)
    for done in score(
        segmenting, name, inputs, folder, labels, skip_bad, overwrite, maps, say, run / SPLIT
    ):
        shown = ", ".join(f"{name} {value.dice:.3f}" for name, value in done.regions.items())
        say(f"{done.name}: Dice {shown}")
        means.append(done.mean_dice)
    mean = sum(means) / len(means)
    say(f"mean Dice {mean:.4f} over {len(means)} cases; open {folder / 'report.html'}")


COMMANDS = (
    (segment, "keelnet segment runs/tumour scans/BraTS-GLI-00003-000 --out runs/segmented"),
    (evaluate, "keelnet evaluate runs/tumour scans --out runs/evaluated"),
)
