"""Launches: what torchrun tells the processes that it starts, and where they meet."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from uuid import uuid4

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

POLL = 0.01  # seconds


def launch() -> str | None:
    """The name of the launch by torchrun that this process is part of, the same after a restart.

    None without torchrun, and for a launch without a name that never restarts; raises ValueError where it may
    restart: nothing would tell its own folder from another run's.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if name != "none":
        return name
    if _number("TORCHELASTIC_MAX_RESTARTS", 0) > 0:
        raise ValueError(
            "torchrun may restart this launch, which has no name to know its folder by; add --rdzv-id=NAME"
        )
    return None


def restarts_left() -> bool:
    """Whether torchrun would start these processes again if one failed now."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) < _number("TORCHELASTIC_MAX_RESTARTS", 0)


def meeting_place(rank: int, size: int, patience: timedelta) -> Store | None:
    """A store for the processes of this start alone; None where torch's own serves, without torchrun.

    torchrun (of torch 2.13) keeps one store over all restarts, and in it the addresses of processes that have
    ended: who reads one before it is written anew is refused. A restart is not counted alike on all machines, so
    the first process makes up a name under which this start's addresses are written.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    port = _number("MASTER_PORT", 0)
    store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=patience)
    name = _given(store, size) if rank == 0 else _asked(store, rank)
    return PrefixStore(name, store)


def _given(store: Store, size: int) -> str:
    """A new name, told to whoever asks until all have it: a question may be of a process that has ended."""
    name = uuid4().hex
    missing = set(range(1, size))
    while missing:
        for rank in list(missing):
            if store.check([f"asked/{rank}"]):
                store.set(f"answer/{store.get(f'asked/{rank}').decode()}", name)
            if store.check([f"heard/{name}/{rank}"]):
                missing.remove(rank)
        time.sleep(POLL)
    return name


def _asked(store: Store, rank: int) -> str:
    question = uuid4().hex
    store.set(f"asked/{rank}", question)
    name = str(store.get(f"answer/{question}").decode())  # waits until it is there
    store.set(f"heard/{name}/{rank}", "")
    return name


def _number(variable: str, otherwise: int) -> int:
    return int(os.environ.get(variable, otherwise))
