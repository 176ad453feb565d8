"""Ours against the peers, in turn within one run; writes a table, a record and pictures.

python benchmarks/compare.py --quick
python benchmarks/compare.py --only narrow,dense --peers torch,jax --out runs/bench
python benchmarks/compare.py --quick --only dense --case "euler.*forward$" --peers floor --dry
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import plan
from arena import FULL, QUICK, Arena, Pace
from environments import ENVIRONMENTS, ROOT
from machine import machine
from pictures import draw
from plan import Cell
from results import Result
from scales import weigh
from standings import standings
from tables import report
from targets import targets

PEERS = (
    "keelnet",
    "floor",
    "torch",
    "torch.compile",
    "torchdiffeq",
    "torchode",
    "jax",
    "diffrax",
    "memcnn",
    "iunets",
    "monai",
)


def main() -> None:
    """Measure, print, and write after every cell: hours of them must not hang on the last."""
    arguments = _arguments()
    _require_free(arguments)
    cells = _cells(arguments)
    unbuilt = _unbuilt(cells)
    pace = QUICK if arguments.quick else FULL
    if arguments.rounds:
        pace = replace(pace, least_rounds=arguments.rounds, most_rounds=arguments.rounds)
    found_on = machine()
    begin = time.monotonic()
    results: list[Result] = []
    # Old results stay until there are new ones of every cell.
    partial = arguments.out
    if (arguments.out / "results.json").exists():
        partial = arguments.out.with_name(f"{arguments.out.name}-unfinished")
    with closing(_measured(cells, pace, unbuilt)) as measured:
        for number, found in enumerate(measured, 1):
            results += found
            if not arguments.dry:
                found_on["measured in"] = f"{time.monotonic() - begin:.0f} s"
                found_on["cells"] = f"{number} of {len(cells)}"
                whole = number == len(cells)
                write_report(arguments.out if whole else partial, found_on, results)
    if partial != arguments.out:
        shutil.rmtree(partial, ignore_errors=True)
    if not arguments.dry:
        print(f"\nwrote {arguments.out}/results.md")


def _measured(
    cells: list[Cell], pace: Pace, unbuilt: dict[str, str]
) -> Generator[list[Result], None, None]:
    """Cell after cell, each printed when it is done."""
    with tempfile.TemporaryDirectory(prefix="keelnet-bench-") as scratch:
        arena = Arena(pace, Path(scratch), ROOT / "log", unbuilt)
        try:
            for number, cell in enumerate(cells, 1):
                begin = time.monotonic()
                found = weigh(arena, cell) if cell.part == "memory" else arena.meet(cell)
                spent = time.monotonic() - begin
                _say(f"[{number}/{len(cells)}, {spent:.0f} s] {cell.name}", found)
                yield found
        finally:
            arena.stop()


def write_report(out: Path, found_on: dict[str, str], results: list[Result]) -> None:
    """Into a folder beside it first; each file then takes its place at once."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        found = standings(results)
        pictures = draw(found, folder)
        (folder / "results.md").write_text(report(found_on, found, pictures))
        record = {"machine": found_on, "targets": [asdict(one) for one in targets(found)]}
        record["results"] = [one.as_dict() for one in results]
        (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        out.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.replace(out / path.name)


def _require_free(arguments: argparse.Namespace) -> None:
    taken = (arguments.out / "results.json").exists()
    if taken and not (arguments.overwrite or arguments.dry):
        sys.exit(f"{arguments.out} holds results; pass --overwrite, or another --out")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a subset, under five minutes")
    parser.add_argument("--only", default=",".join(plan.PARTS), help="parts, comma separated")
    parser.add_argument("--peers", default=",".join(PEERS), help="peers, comma separated")
    parser.add_argument(
        "--case", type=_pattern, default="", help="cells whose name matches this pattern"
    )
    parser.add_argument("--rounds", type=_count, help="exactly so many rounds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    return parser.parse_args()


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _cells(arguments: argparse.Namespace) -> list[Cell]:
    """What was asked for; keelnet is always there."""
    peers = {"keelnet", *arguments.peers.split(",")}
    parts = arguments.only.split(",")
    if unknown := (peers - set(PEERS)) | (set(parts) - set(plan.PARTS)):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {PEERS} and {plan.PARTS}")
    chosen = []
    for part in parts:
        for cell in plan.cells(part, arguments.quick):
            if arguments.case.search(cell.name):
                contenders = tuple(one for one in cell.contenders if one.peer in peers)
                chosen.append(replace(cell, contenders=contenders))
    if not chosen:
        sys.exit(f"no cell of {', '.join(parts)} matches {arguments.case.pattern!r}")
    return chosen


def _unbuilt(cells: list[Cell]) -> dict[str, str]:
    """Build what is missing; the reason for each environment that cannot be."""
    wanted = {one.environment for cell in cells for one in cell.contenders}
    reasons = {name: ENVIRONMENTS[name].build() for name in sorted(wanted & ENVIRONMENTS.keys())}
    return {name: reason for name, reason in reasons.items() if reason}


def _say(title: str, results: list[Result]) -> None:
    print(f"\n{title}")
    for result in results:
        if result.peak_bytes is not None:
            saved = "–" if result.saved_bytes is None else f"{result.saved_bytes / 1e6:.2f} MB"
            print(f"  {result.name:28} saved {saved}, peak {result.peak_bytes / 1e6:.1f} MB")
        elif result.median is None:
            print(f"  {result.name:28} {result.refused}")
        else:
            least, most = min(result.seconds), max(result.seconds)
            worst = f"off by {max(result.errors.values()):.0e}" if result.errors else ""
            spread = f"{1e3 * least:9.2f} – {1e3 * most:9.2f}"
            figures = f"{1e3 * result.median:10.2f} ms  ({spread}, {len(result.seconds)} rounds)"
            print(f"  {result.name:28} {figures}  {worst}  {result.note}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
