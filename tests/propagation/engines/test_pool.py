"""Laws of the pool: what was let go is used again, what is in use never is, and little waits."""

from __future__ import annotations

import gc
import mmap
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from keelnet.propagation.engines import pool

COUNT = pool.SMALL  # numbers, of at least two bytes: a large buffer


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A pool of this test's own."""
    monkeypatch.setattr(pool, "_POOL", pool._Pool())


def waiting() -> int:
    gc.collect()
    return sum(len(buffer) for buffer in pool._POOL._free)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (8, COUNT // 4)])
def test_a_buffer_has_the_shape_and_type_asked_for(shape, dtype):
    for made in (pool.empty(shape, dtype), pool.zeros(shape, dtype)):
        assert made.shape == shape and made.dtype == dtype and made.is_contiguous()
        made.fill_(3)
        assert (made == 3).all()
    assert not pool.zeros(shape, dtype).any()


def test_a_buffer_that_was_let_go_is_used_again():
    first = pool.empty((COUNT,), torch.float32)
    place = first.data_ptr()
    del first
    assert waiting() >= 4 * COUNT
    again = pool.empty((COUNT // 2, 2), torch.float32)
    assert again.data_ptr() == place and waiting() == 0


@pytest.mark.parametrize("view", [lambda x: x[5:7], lambda x: x.view(2, -1), lambda x: x.detach()])
def test_a_buffer_in_use_is_not_used_again_even_by_a_view(view):
    first = pool.zeros((COUNT,), torch.float32)
    part = view(first)
    del first
    assert waiting() == 0
    pool.empty((COUNT,), torch.float32).fill_(1)
    assert not part.any()


def test_a_tensor_that_autograd_keeps_is_in_use():
    x = pool.zeros((COUNT,), torch.float32)
    weight = torch.ones(COUNT, requires_grad=True)
    product = (weight * x).sum()
    del x
    pool.empty((COUNT,), torch.float32).fill_(1)
    assert not torch.autograd.grad(product, weight)[0].any()


def test_a_much_larger_buffer_waits_for_its_own_size():
    first = pool.empty((4 * COUNT,), torch.float32)
    del first
    held = pool.empty((COUNT,), torch.float32)
    assert waiting() >= 16 * COUNT
    del held


def test_small_buffers_are_left_to_torch():
    assert pool.empty((16,), torch.float32).data_ptr() != 0
    assert waiting() == 0


def test_no_more_than_the_limit_waits(monkeypatch):
    monkeypatch.setattr(pool, "KEPT", 10 * COUNT)
    held = [pool.empty((COUNT,), torch.float32) for _ in range(5)]
    places = [each.data_ptr() for each in held]
    while held:
        del held[0]
        assert waiting() <= 10 * COUNT
    again = [pool.empty((COUNT,), torch.float32) for _ in range(2)]
    assert {each.data_ptr() for each in again} == set(places[-2:])  # the oldest ones left


def test_threads_never_share_a_buffer():
    def work(mark: int) -> bool:
        for turn in range(20):
            mine = pool.empty((COUNT // 4 + 1000 * (turn % 3),), torch.float32).fill_(mark)
            other = pool.zeros((COUNT // 4,), torch.float32)
            if not (mine == mark).all() or other.any():
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(1, 9)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system that does not fork")
def test_a_forked_process_writes_into_memory_of_its_own():
    """Workers that load data are forked, and inherit the buffers."""
    kept = pool.empty((pool.SMALL,), torch.float32).fill_(1.0)
    child = os.fork()
    if child == 0:
        kept.numpy().fill(2.0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert bool((kept == 1.0).all())


def test_what_waits_is_given_up_before_memory_is_said_to_be_gone(monkeypatch):
    made, fresh = [], pool._fresh

    def scarce(size):
        """No more than one buffer at a time."""
        if pool._POOL._free:
            raise OSError(12, "Cannot allocate memory")
        made.append(size)
        return fresh(size)

    monkeypatch.setattr(pool, "_fresh", scarce)
    first = pool.empty((COUNT,), torch.float32)
    del first
    assert waiting()
    second = pool.empty((2 * COUNT,), torch.float32)
    assert len(made) == 2 and not pool._POOL._free and second.fill_(1).all()


def test_memory_that_is_gone_is_a_memory_error(monkeypatch):
    def gone(size):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pool, "_fresh", gone)
    with pytest.raises(MemoryError, match="cannot allocate memory: 4,194,304 bytes"):
        pool.empty((COUNT,), torch.float32)


def test_a_kernel_without_huge_pages_has_memory_too(monkeypatch):
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)
    assert pool.empty((COUNT,), torch.float32).fill_(1).all()


ROOM = 1 << 30


@pytest.mark.parametrize(
    ("told", "limits", "room"),
    [
        ("0::/\n", {"memory.max": ROOM}, ROOM),
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/job/step\n", {"memory.max": "max", "job/step/memory.max": ROOM}, ROOM),
        ("0::/job/step\n", {"job/memory.max": ROOM, "job/step/memory.max": 2 * ROOM}, ROOM),
        ("0::/job\n", {"job/memory.max": "max", "other/memory.max": ROOM}, None),
        ("3:cpu,memory:/job\n0::/\n", {"memory/job/memory.limit_in_bytes": ROOM}, ROOM),
        ("3:memory:/job/a:b\n", {"memory/job/memory.limit_in_bytes": ROOM}, ROOM),
        ("3:cpu:/job\n", {"memory/job/memory.limit_in_bytes": ROOM}, None),
        ("0::/seen/from/outside\n", {"memory.max": ROOM}, ROOM),
        (None, {"memory/memory.limit_in_bytes": ROOM}, ROOM),
        (None, {}, None),
    ],
)
def test_no_more_waits_than_a_control_group_has_room_for(tmp_path, monkeypatch, told, limits, room):
    for name, limit in limits.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    if told is not None:
        (tmp_path / "own").write_text(told)
    monkeypatch.setattr(pool, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(pool, "OWN_CGROUPS", tmp_path / "own")
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert pool._limit() == (room or whole) // pool.SHARE
