"""One job in a process of its own: worker.py OUT CASES JOB PARENT.

JOB is JSON as `jobs.Job` has it. It ends when the process PARENT does: nobody would wait for it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # after its own folder: environments.py
warnings.simplefilter("ignore")

import torch  # noqa: E402
from cohort import Cohort  # noqa: E402
from contest import Contest  # noqa: E402
from contestants import CONTESTANTS  # noqa: E402
from jobs import Job, Record, Records  # noqa: E402
from judging import judged  # noqa: E402
from pacing import paced  # noqa: E402
from settings import Settings  # noqa: E402
from weighing import weighed  # noqa: E402


def main() -> None:
    """Do it and keep the record."""
    threading.Thread(target=_end_with, args=(int(sys.argv[4]),), daemon=True).start()
    records, cases = Records(Path(sys.argv[1])), Path(sys.argv[2])
    job, settings = Job(**json.loads(sys.argv[3])), Settings.read(records.settings)
    torch.set_num_threads(settings.threads)
    if job.kind == "memory":
        records.keep(job, weighed(CONTESTANTS[job.contestant], settings))
    elif job.kind == "pace":
        records.keep(job, paced(CONTESTANTS[job.contestant], settings))
    else:
        records.keep(job, _trained(job, settings, cases))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _trained(job: Job, settings: Settings, cases: Path) -> Record:
    training, validation = (Cohort.of(cases, kind, settings) for kind in ("training", "validation"))
    test = Cohort.of(cases, "test", settings) if settings.test else validation
    seconds = settings.search_seconds if job.kind == "search" else settings.seconds
    contest = Contest(
        settings, CONTESTANTS[job.contestant], job.rate, job.seed, seconds, training, validation
    )
    network, record = contest.trained()
    record["validation"] = judged(network, validation, settings.patch)
    if job.kind == "search":  # the test cases are for the runs of the table
        return record
    seen = Cohort(cases, "training", min(settings.validation, settings.training), settings.resolution)  # fmt: skip
    record["training"] = judged(network, seen, settings.patch)
    record["test"] = judged(network, test, settings.patch)
    record["perturbed"] = judged(network, test, settings.patch, settings.perturbation)
    return record


if __name__ == "__main__":
    main()
