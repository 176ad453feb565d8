"""What the Q-tips look like: images and labels at the lengths of the study.

Run from the project's root: .venv/bin/python benchmarks/qtips_images.py --out PICTURE.png [--lengths 8 12 16]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keelnet.data.qtips import CLASS_NAMES, qtips

# Okabe and Ito's, apart in brightness too.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#F0E9C0")


def figure(lengths: Sequence[float], size: int, images: int) -> Figure:
    """A row a length: withheld images, each beside its labels."""
    picture = Figure(figsize=(1.5 * 2 * images, 1.62 * len(lengths) + 0.65), layout="constrained")
    rows = picture.subplots(len(lengths), 2 * images, squeeze=False)
    for row, length in zip(rows, lengths, strict=True):
        x, labels = qtips(size=size, length=length, withheld=images).validation
        for i in range(images):
            row[2 * i].imshow(x[i, 0], cmap="gray", vmin=0, vmax=1)
            row[2 * i + 1].imshow(labels[i], cmap=ListedColormap(COLOURS), vmin=0, vmax=3)
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(f"rods of {length:g} pixels")
    patches = [
        Patch(facecolor=colour, edgecolor="0.5", label=name)
        for colour, name in zip(COLOURS, CLASS_NAMES, strict=True)
    ]
    picture.legend(
        handles=patches,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        title="how many ends of the rod are bright",
    )
    return picture


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lengths", type=float, nargs="+", default=[8, 12, 16])
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--images", type=int, default=4)
    given = parser.parse_args()
    temporary = given.out.with_suffix(f".{os.getpid()}.new.png")
    figure(given.lengths, given.size, given.images).savefig(temporary, dpi=110)
    temporary.replace(given.out)


if __name__ == "__main__":
    main()
