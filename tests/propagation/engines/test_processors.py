"""Laws of other machines: a smaller processor, no Numba, no cache, other threads; the result is the plain loop's.

Each runs in a process of its own, which compares and prints; what it printed is judged here.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import keelnet

TESTS = Path(__file__).parents[2]
BOUND = {"float32": 1e-5, "float64": 1e-13}
BY_TYPE = {
    "float32": [
        "narrow float32",
        "staged float32",
        "blocks float32",
        "conv float32",
        "filtered float32",
    ],
    "float64": ["narrow float64", "staged float64", "blocks float64", "reversible float64"],
}
ONE = ["narrow float32"]

LAW = """
import json
import sys

import torch
from problems import randn

import keelnet as kn

CASES = {
    "narrow": ("narrow", kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(3, 5)), (37, 8)),
    "staged": ("staged", kn.RK4(), kn.HamiltonianField(kn.DenseKernel(3, 5)), (37, 8)),
    "blocks": ("dense", kn.Euler(), kn.SingleField(kn.DenseKernel(40)), (100, 40)),
    "reversible": ("dense", kn.Verlet(), kn.HamiltonianField(kn.DenseKernel(40)), (100, 80)),
    "conv": ("conv", kn.Verlet(), kn.HamiltonianField(kn.ConvKernel(3, 2, 3)), (2, 6, 7, 5)),
    "filtered": ("conv", kn.Verlet(), kn.HamiltonianField(kn.ConvKernel(16, 2, 3)), (2, 32, 26, 23)),
}


def pulled(engine, method, field, y0, controls, strategy):
    y0 = y0.clone().requires_grad_()
    controls = {name: value.clone().requires_grad_() for name, value in controls.items()}
    with kn.engine(engine):
        value = kn.propagate(method, field, y0, controls, 0.1, strategy)
        choice = str(kn.engine_of(method, field, y0, controls, 0.1, strategy))
    cost = (value * randn(*value.shape, seed=9, dtype=value.dtype)).sum()
    return choice, [value.detach(), *torch.autograd.grad(cost, [y0, *controls.values()])]


def compared(case, times=1, engine=None):
    name, dtype = case.split()[0], getattr(torch, case.split()[1])
    known, method, field, shape = CASES[name]
    y0 = randn(shape[0] * times, *shape[1:], dtype=dtype)
    controls = {}
    for seed, (each, slot) in enumerate(field.theta_shapes().items(), 1):
        share = 1 if slot.kernel is None else slot.kernel.fan_in
        controls[each] = randn(5, *slot.shape, seed=seed, dtype=dtype) / share**0.5
    strategy = kn.reversible if name == "reversible" else kn.store_all
    call = method, field, y0, controls, strategy
    choice, found = pulled(engine or known, *call)
    _, wanted = pulled("reference", *call)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
    return {"choice": choice, "errors": errors}


def tell(**found):
    print(json.dumps(found))
"""

TOLD = "tell(**{case: compared(case) for case in sys.argv[1:]})"


def told(script: str, *cases: str, seconds: int = 300, **environment: Any) -> dict[str, Any]:
    """What the script tells of the cases."""
    settings = {"OMP_NUM_THREADS": "2", **{name: str(each) for name, each in environment.items()}}
    paths = [settings.get("PYTHONPATH"), str(TESTS)]
    settings["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *cases],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def check(found: dict[str, Any], cases: list[str]) -> None:
    for case in cases:
        errors = found[case]["errors"]
        assert errors, case
        for error in errors:  # not-a-number is above no bound, and below none
            assert error <= BOUND[case.split()[1]], (case, errors)


# What a processor says of itself, and what Numba is told to compile for.
PROCESSORS = {
    "haswell": """
from llvmlite import binding

whole = binding.get_host_cpu_features


def without():
    features = whole()
    for name in features:
        features[name] = features[name] and "avx512" not in name
    return features


binding.get_host_cpu_features = without
""",
    "x86-64": """
from llvmlite import binding


def unknown():
    raise RuntimeError("LLVM does not know the features of this processor")


binding.get_host_cpu_features = unknown
""",
}
MACHINE = """
from keelnet.propagation.engines import lanes, winograd_products
from keelnet.propagation.engines.blocks_backward import backward
from keelnet.propagation.engines.tiles_forward import forward

winograd_products._has_vectors = lambda: True  # where it would not pay it must still be right
found = {case: compared(case) for case in sys.argv[1:]}
double = "narrow float64" in found
texts = [each._library.get_asm_str() for each in (forward(4, "tanh", double), backward("tanh", double))]
uses = [name for name in ("xmm", "ymm", "zmm") if any(f"%{name}" in text for text in texts)]
tell(**found, bytes=lanes.BYTES, registers=uses[-1])
"""


def _supports(name: str) -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    binding = pytest.importorskip("llvmlite.binding")
    return name != "haswell" or all(binding.get_host_cpu_features().get(each) for each in ("avx2", "fma"))  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "registers"), [("haswell", "ymm"), ("x86-64", "xmm")])
def test_a_smaller_or_an_unknown_processor_gives_the_same_numbers(name, registers, dtype, tmp_path):
    pytest.importorskip("numba")
    if not _supports(name):
        pytest.skip(f"this machine cannot run code for {name}")
    found = told(
        PROCESSORS[name] + LAW + MACHINE,
        *BY_TYPE[dtype],
        NUMBA_CACHE_DIR=tmp_path,
        NUMBA_CPU_NAME=name,
        NUMBA_CPU_FEATURES="",
    )
    assert found["bytes"] == 32
    assert found["registers"] == registers  # else it was compiled for this very machine
    check(found, BY_TYPE[dtype])
    if dtype == "float32":
        assert "Winograd" in found["filtered float32"]["choice"]
    assert found[f"blocks {dtype}"]["choice"].splitlines()[0].endswith(", compiled")


@pytest.mark.parametrize(
    "told_numba",
    [
        {"NUMBA_ENABLE_AVX": "0"},
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_FEATURES": "-avx512f"},
        {
            "NUMBA_CPU_NAME": "skylake-avx512",
            "NUMBA_CPU_FEATURES": "+avx512f,+avx512vl,+avx512dq,+fma",
        },
    ],
    ids=lambda each: " ".join("=".join(item) for item in each.items()),
)
def test_what_numba_compiles_for_may_be_less_than_the_host(told_numba, tmp_path):
    pytest.importorskip("numba")
    from keelnet.propagation.engines import lanes

    if not lanes.WIDE:
        pytest.skip("nothing is left out on this machine")
    check(told(LAW + TOLD, *ONE, NUMBA_CACHE_DIR=tmp_path, **told_numba), ONE)


ACCURACY = """
from keelnet.dynamics.activations import KNOWN
from keelnet.propagation.engines import bends, lanes
from keelnet.propagation.engines.passes import Passes

x = torch.logspace(-6, 1, 200_000)[:, None]
found, wanted = torch.empty_like(x), torch.tanh(x.double())
Passes(KNOWN["tanh"], None, x.dtype).bend(x, dest=found)
last = 2.0 ** (wanted.log2().floor() - 23)
units = float(((found - wanted).abs() / last).max())
tell(units=units, bound=bends.BENDS["tanh"].ulp[0], divides=lanes.DIVIDES, wide=lanes.WIDE)
"""


@pytest.mark.parametrize(("name", "divides"), [("znver4", True), ("skylake-avx512", False)])
def test_tanh_is_as_near_with_a_division_as_with_an_estimate_of_it(name, divides, tmp_path):
    pytest.importorskip("numba")
    from keelnet.propagation.engines import lanes

    if not lanes.WIDE:
        pytest.skip("this machine has no vectors of 16 numbers")
    features = "+avx512f,+avx512vl,+avx512dq,+avx512bw,+fma,+avx2"
    named = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    found = told(LAW + ACCURACY, NUMBA_CACHE_DIR=tmp_path, **named)
    assert found["wide"] and found["divides"] == divides
    assert 0.5 < found["units"] <= found["bound"]


def test_a_host_whose_features_nobody_knows_has_narrow_vectors(tmp_path):
    """As on processors that LLVM cannot ask: Numba then compiles for the processor's name alone."""
    pytest.importorskip("numba")
    script = "from keelnet.propagation.engines import lanes\n"
    script += "tell(**{case: compared(case) for case in sys.argv[1:]}, bytes=lanes.BYTES)"
    found = told(PROCESSORS["x86-64"] + LAW + script, *ONE, NUMBA_CACHE_DIR=tmp_path)
    assert found["bytes"] == 32
    check(found, ONE)


def test_without_numba_dense_layers_take_the_products_of_torch():
    without = "import sys\nsys.modules['numba'] = None\n"
    asked = "\n".join(
        [
            "found = {}",
            "for case in ('narrow float64', 'blocks float32', 'reversible float64', 'conv float64'):",
            "    found[case] = compared(case, engine='auto')",
            "try:",
            "    compared('narrow float64')",
            "except ValueError as error:",
            "    found['refused'] = str(error)",
            "tell(**found)",
        ]
    )
    found = told(without + LAW + asked)
    cases = ["narrow float64", "blocks float32", "reversible float64", "conv float64"]
    check(found, cases)
    assert "Numba cannot be imported" in found["refused"]
    for case in cases[:3]:
        assert found[case]["choice"].startswith("dense: "), found[case]
        assert "torch's matrix products" in found[case]["choice"]
        assert "Numba cannot be imported" in found[case]["choice"]
    assert "not narrow: Numba cannot be imported" in found["narrow float64"]["choice"]
    assert found["conv float64"]["choice"].startswith("conv: ")


@pytest.mark.parametrize("why", ["broken", "switched off"])
def test_a_numba_that_cannot_be_used_is_as_none(tmp_path, why):
    environment: dict[str, Any] = {"NUMBA_DISABLE_JIT": "1"}
    if why == "broken":
        (tmp_path / "numba.py").write_text('raise ImportError("Numba needs NumPy 2.3 or less")\n')
        environment = {"PYTHONPATH": tmp_path}
    script = "tell(**{case: compared(case, engine='auto') for case in sys.argv[1:]})"
    cases = ["narrow float64", "conv float64"]
    found = told(LAW + script, *cases, **environment)
    check(found, cases)
    assert "Numba cannot be imported, or is switched off" in found["narrow float64"]["choice"]


def unwritable(tmp_path: Path) -> dict[str, Path]:
    """An installation beside which nothing can be written, not even by root; nor anywhere else."""
    home = Path(keelnet.__file__).parent
    copied = tmp_path / "installed" / "keelnet"
    shutil.copytree(home, copied, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for folder in [copied, *(each for each in copied.rglob("*") if each.is_dir())]:
        (folder / "__pycache__").touch()
    nowhere = tmp_path / "file"
    nowhere.touch()
    below = {name: nowhere / name for name in ("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME")}
    return {**below, "PYTHONPATH": copied.parent}


def test_where_nothing_can_be_written_only_the_cache_is_missing(tmp_path):
    pytest.importorskip("numba")
    environment = unwritable(tmp_path)
    script = "tell(**{case: compared(case) for case in sys.argv[1:]}, home=kn.__file__)"
    found = told(LAW + script, *ONE, **environment)
    assert found["home"].startswith(str(environment["PYTHONPATH"]))
    check(found, ONE)


# On 7 threads, then in a process forked after that; a forked process has one thread, as the
# workers of torch's own loader: no OpenMP of GNU survives a fork with more.
MANY = """
import multiprocessing

from keelnet.propagation.engines import block_loop, tile_call

asked = []


def counted(launch):
    def call(kernel, block, place, threads):
        asked.append(threads)
        launch(kernel, block, place, threads)

    return call


tile_call.TileCall._worth = lambda self: 99
tile_call.launch_all = counted(tile_call.launch_all)
block_loop.launch_all = counted(block_loop.launch_all)
torch.set_num_threads(7)
found = {case: compared(case, times=20) for case in sys.argv[1:]}


def child(queue):
    torch.set_num_threads(1)
    queue.put({case: compared(case, times=20) for case in sys.argv[1:]})


forked = None
if "fork" in multiprocessing.get_all_start_methods():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join(60)
    hangs = process.exitcode is None
    if hangs:
        process.kill()
    forked = {"code": None} if hangs else {"code": process.exitcode}
    if process.exitcode == 0:
        forked.update(queue.get())
after = {case: compared(case, times=20) for case in sys.argv[1:]}
tell(**found, threads=sorted(set(asked)), forked=forked, after=after)
"""
ON_MANY = ["narrow float32", "narrow float64", "blocks float32", "reversible float64", "conv float32"]  # fmt: skip


@pytest.fixture(scope="module")
def many() -> dict[str, Any]:
    pytest.importorskip("numba")
    return told(LAW + MANY, *ON_MANY)


def test_there_may_be_more_threads_than_processors(many):
    assert many["threads"] == [7]
    check(many, ON_MANY)


def test_a_process_forked_after_the_first_use_propagates(many):
    if many["forked"] is None:
        pytest.skip("a system that does not fork")
    assert many["forked"]["code"] == 0, "the forked process hangs or fails"
    check(many["forked"], ON_MANY)
    check(many["after"], ON_MANY)  # and the process that forked goes on


def test_there_may_be_fewer_threads_than_asked_for():
    """Without convolutions: oneDNN's own gradient waits for the threads that never come."""
    pytest.importorskip("numba")
    cases = ["narrow float64", "blocks float64"]
    found = told(LAW + MANY, *cases, OMP_THREAD_LIMIT="3")
    assert found["threads"] == [7]
    check(found, cases)
