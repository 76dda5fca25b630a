"""Processes of one start find each other, and nobody of an earlier start.

A launcher that starts processes again after a failure, such as torchrun with --max-restarts, keeps its store
of keys and values. What the dead wrote there, such as the address they listened at, would mislead their
successors. The number of the restart tells nothing: on several machines every launcher counts its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from utils.errors import RunStopped

POLL_S = 0.05


class Store(Protocol):
    """The part of a launcher's key-value store that a meeting needs."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def add(self, key: str, amount: int, /) -> int: ...


def meet(store: Store, rank: int, size: int, timeout_s: float) -> str:
    """Waits for the other processes of this start.

    Every process counts the starts of its rank. Rank 0 invites the newest process of every other rank, once
    it is another one than an earlier rank 0 has met.

    Returns:
        The name of a part of the store that belongs to these processes alone.

    Raises:
        RunStopped: rank 0 waited in vain for some ranks, which it names, or this one for rank 0.
    """
    start = store.add(f"starts/{rank}", 1)
    deadline = time.monotonic() + timeout_s
    if rank == 0:
        newest = _newcomers(store, size, deadline, timeout_s)
        for other, number in newest.items():
            store.set(f"met/{other}", str(number))
            store.set(f"invited/{other}/{number}", f"start_{start}")
        return f"start_{start}"
    invitation = f"invited/{rank}/{start}"
    while not store.check([invitation]):
        if time.monotonic() > deadline:
            raise RunStopped(
                f"rank {rank} waited {timeout_s:g} s for rank 0, which did not start: see its log."
            )
        time.sleep(POLL_S)
    return store.get(invitation).decode()


def _newcomers(store: Store, size: int, deadline: float, timeout_s: float) -> Mapping[int, int]:
    """The newest start of every rank but 0, each after the one that an earlier rank 0 met."""
    met = {r: int(store.get(f"met/{r}")) if store.check([f"met/{r}"]) else 0 for r in range(1, size)}
    while True:
        newest = {r: store.add(f"starts/{r}", 0) for r in met}
        absent = [str(r) for r in met if newest[r] <= met[r]]
        if not absent:
            return newest
        if time.monotonic() > deadline:
            names = f"rank{'s' * (len(absent) > 1)} {', '.join(absent)}"
            raise RunStopped(
                f"rank 0 waited {timeout_s:g} s for {names}: are all {size} processes started, with the same "
                "address and port of the first machine?"
            )
        time.sleep(POLL_S)
