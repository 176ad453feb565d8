"""What is planned is what is measured: the peak of `keelnet train`, within a tenth, over unlike recipes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from keelnet.experiments.plan import plan
from keelnet.experiments.recipes import recipe_named
from keelnet.experiments.resident import STATUS
from keelnet.experiments.scan_sets import synthetic_set

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="memory is measured on Linux alone")

SCANS = ("cases=2", "resolution=4", "spacing=4", "patches=6", "judged=1")
RECIPES = {
    "small digits": ("digits", "width=8", "depth=4", "batch=128"),
    "deep digits, stored": ("digits", "width=64", "depth=40", "batch=128", "strategy=store_all"),
    "tissue": ("tissue", "width=8,16", "depth=2,2", "batch=8"),
    "large patch": ("tumour", *SCANS, "patch=48"),
    "stored": ("tumour", *SCANS, "patch=32", "depth=8,8,8", "strategy=store_all"),
    "wide, one of three sides": ("tumour", *SCANS, "patch=32,32,64", "width=64,128", "depth=2,2", "batch=1"),
}  # fmt: skip
KEELNET = """
import sys
from keelnet.cli import main
try:
    main()
except SystemExit as stop:
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].split()[0], "kB", file=sys.stderr)
    raise
"""


def recipe_of(name):
    recipe, *settings = RECIPES[name]
    return recipe_named(recipe).with_settings(settings)


def train(name, out, *more):
    """The command line's training, and the largest resident size of its process."""
    recipe, *settings = RECIPES[name]
    changes = [word for setting in settings for word in ("--set", setting)]
    words = ("train", recipe, *changes, "--epochs", 2, "--out", out, *more)
    done = subprocess.run(
        [sys.executable, "-c", KEELNET, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"GOMP_SPINCOUNT": "10000"},
    )
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stderr.splitlines()[-1].removesuffix(" kB"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Plans and measured peaks, two recipes at a time on one thread each."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setenv("KEELNET_CACHE", str(root / "cache"))
        patched.setenv("OMP_NUM_THREADS", "1")
        synthetic_set(recipe_of("large patch"), print)

        def both(name):
            return plan(recipe_of(name)), train(name, root / name)

        yield dict(zip(RECIPES, pool.map(both, RECIPES), strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_the_peak_is_predicted_within_a_tenth(measured, name):
    planned, peak = measured[name]
    assert planned.ledger.peak == pytest.approx(peak, rel=0.1)


def test_recipes_differ_enough_to_tell(measured):
    peaks = [peak for _, peak in measured.values()]
    assert max(peaks) > 1.25 * min(peaks)  # no one number is within a tenth of both


def test_a_run_stays_within_its_memory(measured, tmp_path):
    planned, _ = measured["tissue"]
    memory = planned.wanted + planned.wanted // 50  # what is planned differs a little every time
    assert train("tissue", tmp_path / "run", "--memory", memory) <= memory
    assert (tmp_path / "run" / "scores.json").is_file()
