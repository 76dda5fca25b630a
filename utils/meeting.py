"""Processes of one start find each other, and nobody of an earlier start.

A launcher that starts processes again after a failure, such as torchrun with --max-restarts, keeps its store
of keys and values. What the dead wrote there, such as the address they listened at, would mislead their
successors. The number of the restart tells nothing: on several machines every launcher counts its own.

Rank 0 calls the roll: every process repeats its latest call. When another one arrives, rank 0 calls again:
so at the end all have answered within a moment, and none of them has died while it waited for the rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from utils import stopping
from utils.errors import RunStopped
from utils.roll_call import Store

POLL_S = 0.05
SURVIVORS_S = 180.0  # nccl's watchdog ends the others 120 s after the time-out, then Python starts
STOP_S = 10.0  # a stop signal while all are there is better heeded together, with a snapshot


class NobodyMetError(RunStopped):
    """Processes did not meet; each says whom it waited for."""

    everywhere = False


def meet(store: Store, rank: int, size: int, timeout_s: float) -> str:
    """Waits for the other processes of this start; longer if this is not the first of its rank, because the
    survivors of the start before may take time to leave.

    Returns:
        The name of a part of the store that belongs to these processes alone.

    Raises:
        NobodyMetError: some did not come in time, or a stop signal came and they did not come soon after it.
    """
    start = store.add(f"starts/{rank}", 1)
    patience = _Patience(timeout_s if start == 1 else timeout_s + SURVIVORS_S)
    return _call(store, start, size, patience) if rank == 0 else _answer(store, rank, start, patience)


def _call(store: Store, start: int, size: int, patience: _Patience) -> str:
    """Rank 0's part: it is over when the newest process of every rank has answered the latest call."""
    others, newest, call, number = range(1, size), None, "", 0
    while True:
        present = {rank: store.add(f"starts/{rank}", 0) for rank in others}
        if present != newest:
            newest, number = present, number + 1
            call = f"start_{start} {number}"
            store.set("call", call)
        absent = [rank for rank in others if not _said(store, f"answer/{rank}", f"{newest[rank]} {call}")]
        if not absent:
            for rank in others:
                store.set(f"met/{rank}", f"{newest[rank]} {call}")
            return _part(call)
        names = f"rank{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}"
        patience.wait(0, f"{names}, not started or ended again: see their logs, and are all {size} started?")


def _answer(store: Store, rank: int, start: int, patience: _Patience) -> str:
    """Another rank's part: it answers every call until one is the last."""
    answered = ""
    while True:
        call = store.get("call").decode() if store.check(["call"]) else ""
        if call != answered:
            store.set(f"answer/{rank}", f"{start} {call}")
            answered = call
        elif _said(store, f"met/{rank}", f"{start} {call}"):
            return _part(call)
        patience.wait(rank, "rank 0, which " + ("waits for others: see its log" if call else "did not start"))


def _said(store: Store, key: str, value: str) -> bool:
    return store.check([key]) and store.get(key).decode() == value


def _part(call: str) -> str:
    return call.split()[0]


@dataclass(slots=True)
class _Patience:
    """How long to wait in all."""

    seconds: float
    _begin: float = field(default_factory=time.monotonic)
    _stopped: float | None = None

    def wait(self, rank: int, for_whom: str) -> None:
        """Waits a moment, unless that was long enough.

        Raises:
            NobodyMetError: it was.
        """
        now = time.monotonic()
        signal = stopping.requested()
        if signal and self._stopped is None:
            self._stopped = now
        if self._stopped is not None and now - self._stopped > STOP_S:
            raise NobodyMetError(f"{signal} came while rank {rank} waited for {for_whom}")
        if now - self._begin > self.seconds:
            raise NobodyMetError(f"rank {rank} waited {self.seconds:g} s for {for_whom}")
        time.sleep(POLL_S)
