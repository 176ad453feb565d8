"""Crews: as many processes as have room, the process itself where none has, and a sentence where that has not either."""

import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelnet.experiments import crews
from keelnet.experiments.crews import Work, _affordable, crew
from keelnet.experiments.limits import held_within
from keelnet.experiments.resident import STATUS, room, status_of

MB = 10**6
linux = pytest.mark.skipif(not STATUS.exists(), reason="only Linux limits a process' memory")
SIZES = st.integers(1, 4000).map(lambda size: size * MB)


@given(SIZES, SIZES, SIZES)
def test_a_crew_stays_within_what_is_left_and_no_larger_one_would(left, growth, own):
    if growth > left:
        with pytest.raises(
            ValueError, match=r"^work takes .* are left .* give it .* more, or begin once"
        ):
            _affordable(Work("work", growth), left, own)
        return
    count = _affordable(Work("work", growth), left, own)
    assert count * (own + growth) <= left < (count + 1) * (own + growth)


@pytest.mark.parametrize(("jobs", "room", "cores", "count"), [(9, None, 64, 8), (9, None, 3, 3), (2, None, 64, 2), (9, 10**12, 64, 8), (9, 330 * MB, 64, 3), (1, 330 * MB, 64, 1)])  # fmt: skip
def test_a_crew_is_as_large_as_its_jobs_the_machine_and_its_memory_allow(
    monkeypatch, jobs, room, cores, count
):
    monkeypatch.setattr(crews, "room", lambda: room)
    monkeypatch.setattr(crews, "status_of", lambda name: 100 * MB)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    with crew(jobs, lambda: Work("work", 10 * MB)) as pool:
        assert pool._max_workers == count and "Process" in type(pool).__name__


def test_where_no_other_process_has_room_the_work_is_done_here(monkeypatch):
    monkeypatch.setattr(crews, "room", lambda: 20 * MB)
    monkeypatch.setattr(crews, "status_of", lambda name: 100 * MB)
    monkeypatch.setattr(crews, "ProcessPoolExecutor", None)
    with crew(3, lambda: Work("work", 10 * MB)) as pool:
        assert list(pool.map(lambda number: number**2, range(3))) == [0, 1, 4]


def test_a_process_that_is_ended_from_outside_is_one_sentence():
    """As the system ends those for which it has no memory."""
    with (
        pytest.raises(
            ValueError, match="ended before it was done, most likely for want of memory; .*--memory"
        ),
        crew(1, lambda: Work("work", MB)) as pool,
    ):
        pool.submit(os._exit, 9).result()


def test_nothing_to_do_needs_no_room(monkeypatch):
    monkeypatch.setattr(crews, "room", lambda: 0)
    with crew(0, lambda: pytest.fail("nobody knows a largest of none")):
        pass


@linux
def test_room_is_what_a_limit_leaves():
    assert room() is None
    memory, files = status_of("VmRSS") + 300 * MB, status_of("RssFile")
    with held_within(memory, files):
        left = room()
        assert left == pytest.approx(memory - files - status_of("RssAnon"), abs=20 * MB)
        with mmap.mmap(-1, 100 * MB, mmap.MAP_PRIVATE):
            assert room() == pytest.approx(left - 100 * MB, abs=20 * MB)
    assert room() is None
