"""The experiments of the stability laboratory say what the mathematics says, and leave numbers and pictures."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import keelnet as kn
from keelnet.experiments.dampings import DampingSweep
from keelnet.experiments.gradient_maps import GradientMaps
from keelnet.experiments.growth import GrowthAgainstDepth
from keelnet.experiments.laboratory import EXPERIMENTS, experiment_named, perform
from keelnet.experiments.starts import StartOfTheGrid

SMALL = {"growth": ["depth=50"], "damping": ["depth=20", "count=3"], "start": ["finest=800", "depths=20,40"], "gradients": ["depths=2,4", "width=4"]}  # fmt: skip


@pytest.fixture(scope="module")
def growth():
    return GrowthAgainstDepth().curves()


@pytest.fixture(scope="module")
def sweep():
    return DampingSweep().run()


def test_jumps_in_time_resonate_to_ten_to_the_thirteen_and_smoothness_removes_it(growth):
    last = {name: values[-1] for name, values in growth.items()}
    assert last["Verlet, two kernels, resonant"] > 1e13
    for kind in ("one", "two"):
        for how in ("constant", "smooth"):
            assert growth[f"Verlet, {kind} kernel{'s' * (kind == 'two')}, {how}"].max() < 2.1
    assert growth["Verlet, one kernel, resonant"].max() < 10


def test_euler_grows_as_its_eigenvalues_say(growth):
    assert growth["antisymmetric Euler, γ at its bound"].max() < 1 + 1e-9
    depth = len(growth["plain Euler"])
    q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]  # fmt: skip
    omega = float(torch.linalg.matrix_norm(q - q.T, 2))  # of ½ (K − Kᵀ), K = 2 Q
    expected = depth / 2 * math.log(1 + 0.01 * omega**2)
    assert math.log(growth["antisymmetric Euler, γ = 0"][-1]) == pytest.approx(expected, rel=1e-6)
    assert growth["plain Euler"][-1] > 1e13


def test_frequencies_stay_within_what_is_said():
    experiment = GrowthAgainstDepth(depth=300)
    for omega in experiment.frequencies().values():
        assert len(omega) == 300
        assert float(omega.max()) <= 2 + 1e-12 and float(omega.min()) >= 2 / 2.2 - 1e-12


def test_the_page_says_what_the_sweep_of_damping_measures(sweep):
    page = (Path(__file__).parents[2] / "docs" / "stability.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\*\*damping\*\*: .*$", page, flags=re.MULTILINE)
    length = dict(zip(sweep["damping"], sweep["length"], strict=True))
    for words in ("{:.1f} times its start without", "{:.1f} at γ = 0.01", "{:.3f} at γ = 0.1"):
        damping = float((words.split("γ = ")[1:] or ["0"])[0])
        assert words.format(length[damping]) in line
    assert f"the bound is {sweep['bound']:.4f}" in line


def test_the_sweep_of_damping_turns_at_its_bound(sweep):
    found = sweep
    length = dict(zip(found["damping"], found["length"], strict=True))
    start = 0.1 * math.sqrt(2)  # of the source's first feature
    assert length[0.0] * start == pytest.approx(2.82, abs=0.005)
    assert length[0.01] * start == pytest.approx(2.25, abs=0.005)
    assert length[0.1] * start == pytest.approx(0.140, abs=0.0005)
    assert found["bound"] * (1 - 0.1 * found["bound"] / 4) == pytest.approx(0.1)
    for damping, factor in zip(found["damping"], found["amplification"], strict=True):
        assert (factor > 1 + 1e-12) == (damping < found["bound"] * (1 - 1e-9))


def test_the_start_of_the_grid_decides_the_order():
    found = StartOfTheGrid().run()
    assert found["orders"]["full"][-1] == pytest.approx(1, abs=0.05)
    assert found["orders"]["half"][-1] == pytest.approx(2, abs=0.05)
    assert np.all(np.array(found["errors"]["half"]) < found["errors"]["full"])


def test_maps_of_gradients_hold_the_growth_of_each_architecture():
    experiment = GradientMaps(depths=(4, 16), gains=(0.5, 1.0))
    maps = experiment.run()["log10_largest_and_smallest"]
    assert set(maps) <= set(dir(kn.architectures)) and len(maps) == 6
    for name in (
        "hamiltonian",
        "double_hamiltonian",
    ):  # symplectic: σ_min σ_max = 1 with two kernels
        for line in maps[name]:
            for largest, smallest in line:
                assert largest >= 0 >= smallest
    for line in maps["double_hamiltonian"]:
        for largest, smallest in line:
            assert largest == pytest.approx(-smallest, abs=1e-9)
    for largest, _ in maps["parabolic"][0]:
        assert largest <= 1e-12


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_leaves_json_and_a_picture_or_nothing(name, tmp_path):
    out = tmp_path / name
    found = perform(experiment_named(name, SMALL[name]), out)
    assert sorted(each.name for each in out.iterdir()) == [f"{name}.json", f"{name}.png"]
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    table = json.loads((out / f"{name}.json").read_text())
    assert table["settings"].keys() == found["settings"].keys()
    with pytest.raises(ValueError, match="--overwrite"):
        perform(experiment_named(name, SMALL[name]), out)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("speed", [], "unknown experiment 'speed'; known are growth"),
        ("growth", ["deep=3"], "unknown setting 'deep' of growth"),
        ("growth", ["depth=0"], "depth must be a finite number above 0"),
        ("growth", ["step_size=inf"], "step_size must be a finite number above 0"),
        ("start", ["depths=5,0"], "depths must be a finite number above 0"),
        ("start", ["depths=50"], r"two or more that increase, .*, got \(50,\)"),
        ("start", ["depths=50,20"], "two or more that increase"),
        ("start", ["depths=50,100", "finest=100"], "all below finest = 100"),
        ("growth", ["step_size=10"], "must be below π, got 20; use a smaller step_size"),
        ("growth", ["ratio=0.01"], "must be below π, got 20"),
        ("growth", ["seed=99999999999999999999"], r"seed must be at least 0 and below 2\^63"),
        ("growth", ["seed=-1"], r"seed must be at least 0 and below 2\^63"),
        ("gradients", ["gains=0.5,x"], "gains must be numbers separated by commas, got '0.5,x'"),
        ("gradients", ["gains=1,nan"], "gains must be a finite number above 0"),
        ("gradients", ["depths=0.5,1"], "depths must be whole numbers separated by commas"),
    ],
)
def test_experiments_that_cannot_be_run_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        experiment_named(name, settings)


def test_gains_are_read_as_numbers():
    assert experiment_named("gradients", ["gains=0.5,1"]).gains == (0.5, 1.0)


@pytest.mark.filterwarnings("error:overflow encountered")
def test_growth_beyond_the_largest_number_is_left_out(tmp_path):
    """Plain Euler grows by about √2 a layer at h ω = 1."""
    settings = ["step_size=0.5", "depth=2100", "width=2"]
    found = perform(experiment_named("growth", settings), tmp_path)["growth"]
    kept = json.loads((tmp_path / "growth.json").read_text())["growth"]
    assert kept == found and kept["plain Euler"][0] > 1 and kept["plain Euler"][-1] is None
    assert all(each is not None for each in kept["Verlet, one kernel, constant"])


def test_orders_are_those_of_the_depths_that_were_asked_for():
    found = StartOfTheGrid(depths=(100, 300), finest=6000).run()["orders"]
    assert found["full"] == pytest.approx([1], abs=0.05)
    assert found["half"] == pytest.approx([2], abs=0.05)


def test_numbers_that_json_does_not_know_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(StartOfTheGrid, "run", lambda self: {"orders": math.nan})
    monkeypatch.setattr(StartOfTheGrid, "pictures", lambda self, found: {})
    with pytest.raises(ValueError, match="start found numbers that are not finite; change its"):
        perform(StartOfTheGrid(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
