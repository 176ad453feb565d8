"""The source's experiments against independent numbers; its claims, each of which must be able to fail."""

import json
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

import keelnet as kn
from keelnet.experiments import verdicts as claims
from keelnet.experiments.reproduce import RESULTS, reproduce
from keelnet.experiments.seed import READINGS, Experiment, Trajectory, experiments, run_all

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "seed_experiments.json").read_text()
)
PATHS = [
    (group, run)
    for group in ("euler_N21", "antisymmetric_N21", "misprint_N21")
    for run in REFERENCE[group]
]
ENDS = [(run, part) for run, parts in REFERENCE["verlet"].items() for part in parts]


@pytest.fixture(scope="module")
def trajectories() -> dict[str, Trajectory]:
    return run_all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "new" / "reproduction"
    reproduce(out)
    return out


@pytest.fixture(scope="module")
def written(folder) -> dict:
    return json.loads((folder / RESULTS).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("group", "run"), PATHS)
def test_paths_equal_the_reference(written, group, run):
    found, wanted = np.array(written[group][run]), np.array(REFERENCE[group][run])
    assert found.shape == wanted.shape == (22, 3, 2)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("run", "part"), ENDS)
def test_verlet_ends_equal_the_reference(written, run, part):
    tolerance = 1e-11 if run.startswith("N1000") else 1e-12
    found, wanted = (np.array(table["verlet"][run][part]) for table in (written, REFERENCE))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def test_the_file_has_every_entry_of_the_reference(written):
    for key in ("convention", "y0", "verlet_kernel_rows_are_y_components"):
        assert written[key] == REFERENCE[key]
    assert REFERENCE.keys() <= written.keys()
    assert all(
        np.ndim(path) == 3 for run in written["verlet_paths"].values() for path in run.values()
    )
    assert written["settings"].keys() == experiments().keys()
    assert {"keelnet", "torch", "numpy", "matplotlib", "python"} == written["versions"].keys()


@pytest.mark.parametrize("start", ["full", "half"])
@pytest.mark.parametrize("reading", READINGS)
def test_shallow_runs_begin_the_deepest(trajectories, start, reading):
    deepest = trajectories[f"verlet/N1000_{start}/{reading}"].state
    for depth in (20, 50, 100, 200, 500):
        state = trajectories[f"verlet/N{depth}_{start}/{reading}"].state
        np.testing.assert_allclose(state, deepest[: depth + 1], rtol=0, atol=1e-12)


def test_undamped_panels_d_e_f_are_one_path(trajectories):
    zero = trajectories["euler_N21/zero"].y
    for sign in ("plus", "minus"):
        np.testing.assert_array_equal(trajectories[f"antisymmetric_N21/{sign}_gamma_0.0"].y, zero)


def test_growth_by_too_little_damping_is_measured_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        experiments()["antisymmetric_N21/plus_gamma_0.0"].run()


def test_an_experiment_is_frozen():
    with pytest.raises(FrozenInstanceError):
        experiments()["euler_N21/plus"].depth = 3


def exact_rotation() -> Trajectory:
    """K₀ without f and without Euler: every distance is kept."""
    angles = 0.1 * np.arange(22)[:, None]
    y0 = np.array(experiments()["euler_N21/zero"].y0)
    turned = y0 @ np.array([[0.0, -1.0], [1.0, 0.0]])
    return Trajectory(np.cos(angles)[..., None] * y0 + np.sin(angles)[..., None] * turned)


def euler_instead_of_verlet(name: str) -> Trajectory:
    own = experiments()[name]
    return Experiment(kn.Euler(), own.field, own.weight, own.depth, own.y0).run()


FOILS = {
    claims.LEAST_LENGTH: "euler_N21/minus",
    claims.LEAST_DISTANCE: "euler_N21/minus",
    claims.OPPOSITION: "euler_N21/minus",
    claims.MOST_LENGTH: "euler_N21/plus",
    claims.MOST_DISTANCE: "euler_N21/plus",
    claims.CLOSEST: "euler_N21/minus",
    claims.DISTANCE_DRIFT: "euler_N21/plus",
    claims.PEAK: "euler_N1000/zero",
    claims.STATE_DRIFT: "euler_N21/plus",
    claims.WANDER: "euler_N21/minus",
    claims.LEAST_STATE: "euler_N21/minus",
    claims.LEAST_Y: "euler_N21/minus",
}


def foil(claim: claims.Claim, trajectories: dict[str, Trajectory]) -> Trajectory:
    """Another experiment's path, on which the claim must come out the other way."""
    group, *_, last = claim.experiment.split("/")
    if claim.measure is claims.ENERGY_DRIFT:
        return euler_instead_of_verlet(claim.experiment)
    if claim.reading.startswith("strictly"):
        return exact_rotation()
    if claim.experiment == "euler_N1000/zero":
        return trajectories["antisymmetric_N1000/plus_gamma_0.1"]
    if claim.measure is claims.LEAST_Y and last == "y_in_R2":
        return trajectories[claim.experiment.replace("y_in_R2", "y_in_R3")]
    if claim.measure is claims.DRIFT:
        return trajectories[f"misprint_N21/{last.split('_')[0]}"]
    if group == "misprint_N21":
        return trajectories[f"antisymmetric_N21/{last}_gamma_0.0"]
    return trajectories[FOILS[claim.measure]]


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: f"{claim.source}: {claim.text}")
def test_every_verdict_flips_on_another_experiment(trajectories, claim):
    own = claim.judged(trajectories[claim.experiment])
    assert claim.judged(foil(claim, trajectories)).holds is not own.holds


def test_the_claims_that_do_not_hold(trajectories):
    failed = [verdict for verdict in claims.verdicts(trajectories) if not verdict.holds]
    found = [(verdict.source, verdict.reading, verdict.number) for verdict in failed]
    assert found == [
        ("Fig. 2(d)", "strictly, to 1 %", pytest.approx(0.1306, abs=1e-4)),
        ("Fig. 2(d)", "as lasting, to N = 1000", pytest.approx(19.918, abs=1e-3)),
        ("Fig. 3, y in R²", claims.CLAIMS[-2].reading, pytest.approx(0.0316, abs=1e-4)),
    ]


def test_growth_on_the_zero_kernel_is_that_of_euler(trajectories):
    """|1 + i h| = √(1 + h²) a layer for small features; f' ≤ 1 can only lessen it."""
    growth = claims.lengths(trajectories["euler_N21/zero"].y)[-1]
    bound = (1 + 0.1**2) ** (21 / 2)
    assert (growth <= bound).all() and growth.max() > 0.99 * bound


@pytest.mark.parametrize(("number", "holds"), [(2.0, True), (1.9, False), (float("nan"), False)])
def test_a_verdict_compares_and_refuses_nan(number, holds):
    for relation, sign in (("≥", 1), ("≤", -1)):
        verdict = claims.Verdict("", "", "", "", sign * number, relation, sign * 2.0)
        assert verdict.holds is holds


def test_energy_needs_a_hamiltonian_field(trajectories):
    with pytest.raises(ValueError, match="HamiltonianField"):
        claims.energy_drift(trajectories["euler_N21/zero"])


def test_the_file_holds_the_verdicts(written, trajectories):
    judged = claims.verdicts(trajectories)
    assert [entry["holds"] for entry in written["verdicts"]] == [v.holds for v in judged]
    assert [entry["number"] for entry in written["verdicts"]] == [v.number for v in judged]


def test_overwriting_replaces_only_its_own_files(tmp_path, monkeypatch):
    monkeypatch.setattr("keelnet.experiments.reproduce.seed_figures", lambda trajectories: {})
    (tmp_path / RESULTS).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    done = reproduce(tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / RESULTS).read_text(encoding="utf-8"))["verdicts"]
    assert {file.name for file in tmp_path.iterdir()} == {"notes.txt"} | {
        f.name for f in done.files
    }
    assert done.verdicts == claims.verdicts(done.results)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keelnet.experiments.reproduce.save", fail)
    with pytest.raises(ValueError, match="No space left"):
        reproduce(tmp_path)
    assert not list(tmp_path.iterdir())
