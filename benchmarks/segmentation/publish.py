"""Publishing: the page of a comparison, its record and its pictures, while it is at work or from a record alone.

python benchmarks/segmentation/publish.py FOLDER/compare.json --out docs/PAGE.md --pictures pictures/PAGE_
python benchmarks/segmentation/publish.py docs/PAGE.json --out docs/PAGE.md --pictures pictures/PAGE_

The record lies beside the page as PAGE.json; --pictures is what the names of the pictures begin with, seen from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # after its own folder: environments.py, machine.py

from ceiling import Ceiling  # noqa: E402
from contestants import CONTESTANTS  # noqa: E402
from drawing import draw  # noqa: E402
from jobs import Finished, Job, Record, own, rounded  # noqa: E402
from page import only_ours, page  # noqa: E402
from schedule import REGIONS  # noqa: E402
from scores import Score, scores_of  # noqa: E402
from settings import Settings  # noqa: E402
from verdicts import is_test, targets  # noqa: E402


@dataclass(frozen=True)
class Published:
    """The finished jobs that a record tells of; of a search it has the rates and their Dice alone."""

    path: Path
    found: Mapping[str, Record]  # by the name of the job

    @classmethod
    def of(cls, path: Path, content: Mapping[str, Any]) -> Published:
        """Raises ValueError for runs of a contestant that there is none of."""
        runs: list[Record] = [*content["runs"], *content["memory"], *content.get("pace", [])]
        names = {run["contestant"] for run in runs} | content["rates"].keys()
        if unknown := sorted(names - CONTESTANTS.keys()):
            raise ValueError(f"{path} has runs of {', '.join(unknown)}, no contestants here; there are {', '.join(CONTESTANTS)}")  # fmt: skip
        jobs = [Job(run["kind"], run["contestant"], run["rate"], run["seed"]) for run in runs]
        found = {job.name: run for job, run in zip(jobs, runs, strict=True)}
        for name, rates in content["rates"].items():
            for rate, value in rates.items():
                found[Job("search", name, float(rate)).name] = _search(name, value)
        return cls(path, found)

    def get(self, job: Job) -> Record | None:
        """As `Records.get`."""
        return own(job, self.found[job.name], self.path) if job.name in self.found else None


def _search(name: str, value: float) -> Record:
    """What `schedule.worth` asks a record of a search for."""
    return {
        "design": CONTESTANTS[name].described,
        "diverged": "it diverged" if value != value else "",
        "validation": {region: [value] for region in REGIONS},
    }


@dataclass(frozen=True)
class Publication:
    """What a page is made of. refused: reasons by the name of a job or contestant."""

    finished: Finished
    settings: Settings
    machine: Mapping[str, str]
    ceiling: Ceiling | None
    refused: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Publication:
        """Of what `write` left. Raises ValueError where that is another program's or another version's."""
        content = json.loads(path.read_text())
        parts = {"settings", "machine", "ceiling", "rates", "memory", "runs"}
        if not isinstance(content, dict) or not parts <= content.keys():
            raise ValueError(f"{path} is no record of a comparison; wanted is a compare.json, with {', '.join(sorted(parts))}")  # fmt: skip
        columns = content["ceiling"]
        return cls(
            Published.of(path, content),
            Settings.of(content["settings"], path),
            content["machine"],
            None if columns is None else Ceiling(columns),
            content.get("refused", {}),
        )

    def write(self, out: Path, pictures: str = "") -> None:
        """The page ``out`` and what belongs to it, in a folder beside it first; each file then takes its place at once.

        pictures: what the names of the pictures begin with, a folder included.
        """
        scores = scores_of(self.finished, self.settings, list(CONTESTANTS), self.refused)
        due = () if only_ours(scores) else ("deep",)  # missed where they are not there
        shown = [one for one in scores if one.runs or one.memory or one.pace or one.searched or one.refused or one.contestant.role in due]  # fmt: skip
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".page-") as scratch:
            folder = Path(scratch)
            drawn = draw(self.settings, shown, self.ceiling, folder, pictures)
            (folder / out.name).write_text(
                page(self.settings, self.machine, shown, self.ceiling, drawn)
            )
            (folder / out.with_suffix(".json").name).write_text(self._record(shown))
            for path in [path for path in folder.rglob("*") if path.is_file()]:
                place = out.parent / path.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)

    def _record(self, scores: Sequence[Score]) -> str:
        """Everything that the page and the pictures are made of: a line a run."""
        head = {
            "settings": asdict(self.settings),
            "machine": dict(self.machine),
            "is_test": [asdict(one) for one in is_test(scores)],
            "targets": [asdict(one) for one in targets(scores)],
            "ceiling": None if self.ceiling is None else self.ceiling.columns,
            "refused": dict(self.refused),
        }
        lines = [
            f'"{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in head.items()
        ]
        rates = {one.contestant.name: {f"{rate:g}": value for rate, value in one.searched.items()} for one in scores if one.searched}  # fmt: skip
        lines.append(f'"rates": {json.dumps(rounded(rates))}')
        for name, rows in (
            ("memory", [one.memory for one in scores if one.memory]),
            ("pace", [one.pace for one in scores if one.pace]),
            ("runs", [run for one in scores for run in one.runs]),
        ):
            lines.append(f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]")
        return "{" + ",\n".join(lines) + "}\n"


def main() -> None:
    """Write the page of a record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, help="compare.json, or the record of a page")
    parser.add_argument("--out", type=Path, required=True, help="the page, a file PAGE.md")
    parser.add_argument("--pictures", default="", help="what their names begin with, such as pictures/PAGE_")  # fmt: skip
    given = parser.parse_args()
    if given.out.suffix != ".md":
        parser.error(f"--out is the page, a file PAGE.md, got {given.out}")
    try:
        Publication.read(given.record).write(given.out, given.pictures)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
