"""Laws of the threads: torch's own and Python's call the same kernel on the same shares."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress

import pytest
import torch
from problems import randn

import keelnet as kn
from keelnet.dynamics.activations import KNOWN
from keelnet.propagation.engines import threads
from keelnet.propagation.engines.passes import Passes

COUNT = 3


@pytest.fixture(autouse=True)
def several():
    before = torch.get_num_threads()
    torch.set_num_threads(COUNT)
    yield
    torch.set_num_threads(before)


def pulled() -> list[torch.Tensor]:
    """y(T) and every gradient of a propagation that is worth more than one thread."""
    field = kn.HamiltonianField(kn.DenseKernel(16))
    y0 = randn(1000, 32, seed=1).requires_grad_()
    controls = {
        "weight": randn(40, 16, 16, seed=2).requires_grad_(),
        "bias": randn(40, 16, seed=3).requires_grad_(),
    }
    with kn.engine("narrow"):
        value = kn.propagate(kn.Verlet(), field, y0, controls, 0.1)
    cost = (value * randn(1000, 32, seed=4)).sum()
    return [value, *torch.autograd.grad(cost, [y0, *controls.values()])]


def test_threads_of_python_give_the_same_numbers(monkeypatch):
    pytest.importorskip("numba")
    wanted, asked = pulled(), []

    def by_python(kernel: int, block: int, count: int) -> None:
        asked.append(count)
        threads.by_python(kernel, block, count)

    monkeypatch.setattr(threads, "launch", by_python)
    found = pulled()
    assert COUNT in asked
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def summed() -> torch.Tensor:
    """Sums over rows, each thread's apart until the last one adds them up."""
    kept, costate = randn(9000, 7, seed=1), randn(9000, 7, seed=2)
    sums = torch.zeros(7, dtype=torch.float64)
    Passes(KNOWN["tanh"], dtype=torch.float64).pull(kept, costate, costate, sums)
    return sums


def test_sums_over_rows_depend_on_the_number_of_threads_alone(monkeypatch):
    pytest.importorskip("numba")
    from keelnet.propagation.engines import compiled_passes

    wanted = [summed() for _ in range(5)]
    monkeypatch.setattr(compiled_passes, "launch", threads.by_python)
    for found in [*wanted, *(summed() for _ in range(5))]:
        assert torch.equal(found, wanted[0])


@pytest.mark.parametrize("start", [threads.launch, threads.by_python])
@pytest.mark.parametrize("count", [1, COUNT])
def test_a_kernel_is_called_with_its_block_once_by_each_thread(start, count):
    calls, together = [], threading.Barrier(count)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def kernel(block):
        with suppress(threading.BrokenBarrierError):
            together.wait(5)  # seconds: a thread that was given two calls would wait for itself
        calls.append((block, threading.get_ident()))

    start(ctypes.cast(kernel, ctypes.c_void_p).value, 4096, count)
    assert {block for block, _ in calls} == {4096}
    assert len({thread for _, thread in calls}) == len(calls)
    # OpenMP gives fewer threads than asked for where it is told to; those who call `launch` count them.
    told = {"OMP_DYNAMIC", "OMP_THREAD_LIMIT", "OMP_MAX_ACTIVE_LEVELS"} & os.environ.keys()
    fewer = start is threads.launch and told and 1 <= len(calls) < count
    assert len(calls) == count or fewer


def test_without_gnu_openmp_the_threads_are_those_of_python(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("not loaded")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert threads._parallel.__wrapped__() is threads.by_python
